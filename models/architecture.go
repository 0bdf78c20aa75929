package models

import (
	"fmt"

	"github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/fileerror"
	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/nn"
)

// Architecture is a model family with its configuration: what [FromPretrained] reads from a checkpoint's config, and
// what [NewRandom] takes. The package's config types implement it.
type Architecture interface {
	// Validate reports the first field that cannot be used, by its name in config.json.
	Validate() error
	// ModelType is config.json's model_type.
	ModelType() string

	dims() dims
	tensors() nn.Block
	block(l *nn.Layer, x *graph.Node) *graph.Node
}

// dims is what all families have in common.
type dims struct {
	vocab, layers, context int
	shape                  nn.Shape // without Compute
	rope                   nn.Rope
	types                  []string // of the layers, as layer_types has them; nil: all are alike
	tied                   bool
	embed                  embedScale
	logit                  layerwise.Logit
}

// embedScale is the factor on the rows of the embedding.
type embedScale struct {
	factor  float64 // 0: 1
	rounded bool    // to the dtype of the weights, before it multiplies
}

// kind is what is peculiar to layer i.
func (d dims) kind(i int) string {
	if d.types == nil {
		return ""
	}
	return d.types[i]
}

// families are the known ones, by model_type. A new family adds its line here.
var families = map[string]func() Architecture{
	"llama":       func() Architecture { return &LlamaConfig{Type: "llama"} },
	"mistral":     newMistral,
	"qwen2":       newQwen2,
	"qwen3":       newQwen3,
	"gemma":       newGemma,
	"gemma2":      newGemma2,
	"gemma3_text": newGemma3,
	"phi3":        newPhi3,
	"granite":     newGranite,
}

// composites are models of which the language model is taken, by model_type, with that of their text_config.
var composites = map[string]string{"gemma3": "gemma3_text"}

// classes are transformers' classes by model_type.
var classes = map[string]string{
	"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
	"gemma": "GemmaForCausalLM", "gemma2": "Gemma2ForCausalLM", "gemma3_text": "Gemma3ForCausalLM", "phi3": "Phi3ForCausalLM",
	"granite": "GraniteForCausalLM",
}

// FileError reports a GGUF or safetensors file that cannot be read as such: truncated, damaged, hostile, or of another kind.
type FileError = fileerror.Error

// UnsupportedError reports something valid that Loris does not implement.
type UnsupportedError struct {
	Path      string // file
	Field     string
	Value     any
	Supported string // what is supported instead
}

func (e *UnsupportedError) Error() string {
	s := fmt.Sprintf("%s %v is not supported", e.Field, e.Value)
	if e.Path != "" {
		s = e.Path + ": " + s
	}
	if e.Supported != "" {
		s += "; supported: " + e.Supported
	}
	return s
}
