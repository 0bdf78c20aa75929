package peft

import (
	"fmt"
	"math"
	"slices"

	"github.com/loris-ml/loris/internal/safetensors"
	"github.com/loris-ml/loris/models"
)

// Tuners that train virtual tokens. Files hold embeddings, or keys and values, of the tokens as they come out of whatever
// computes them, under one key.
const keyPrompt = "prompt_embeddings"

// promptSet are the virtual tokens of a [PromptTuningConfig] or a [PrefixTuningConfig].
type promptSet struct {
	cfg     promptConfig
	width   int    // of a token's row in files
	trained int64  // parameters
	frozen  string // why they cannot be trained; "": they can
}

// promptConfig is a config of virtual tokens.
type promptConfig interface {
	Config
	fields() object
}

func (s *promptSet) config() Config     { return s.cfg }
func (s *promptSet) targeted() []Target { return nil }
func (s *promptSet) parameters() int64  { return s.trained }

func (s *promptSet) state(values map[string]models.LoRA) []models.LoRA {
	return []models.LoRA{{Path: models.VirtualPath, Virtual: values[models.VirtualPath].Virtual}}
}

func (s *promptSet) save(dir string, values map[string]models.LoRA) error {
	v := values[models.VirtualPath].Virtual
	rows := v.Embeddings
	if rows == nil {
		rows = v.Prefix
	}
	tensor := safetensors.Tensor{Name: keyPrompt, DType: "F32", Shape: []int{v.Tokens, s.width}, Data: littleEndian(rows)}
	return saveFields(dir, s.cfg.Type(), s.cfg.fields(), []safetensors.Tensor{tensor})
}

// readPrompt reads the tokens' rows [tokens, width].
func (f *weightsFile) readPrompt(tokens, width int) ([]float32, error) {
	info, ok := f.Info(keyPrompt)
	if !ok {
		return nil, fmt.Errorf("%s: it has no tensor %q, where PEFT keeps virtual tokens", f.path, keyPrompt)
	}
	if !slices.Equal(info.Shape, []int{tokens, width}) {
		return nil, fmt.Errorf("%s: tensor %q is %v; config and model want [%d, %d]", f.path, keyPrompt, info.Shape, tokens, width)
	}
	if extra := slices.DeleteFunc(slices.Clone(f.Names()), func(n string) bool { return n == keyPrompt }); len(extra) > 0 {
		return nil, fmt.Errorf("%s: tensor %q: %s", f.path, extra[0], "beside virtual tokens, nothing is trained here (modules_to_save)")
	}
	return f.Float32(keyPrompt)
}

// Prompts are what [PromptTuningConfig] and [PrefixTuningConfig] have in common: PEFT's PromptLearningConfig. Zero fields are
// taken from the model.
type Prompts struct {
	NumVirtualTokens int `json:"num_virtual_tokens"` // how many there are; to be given

	TokenDim                 int `json:"token_dim"`                  // features of a token: the hidden size, or a layer's keys
	NumTransformerSubmodules int `json:"num_transformer_submodules"` // 1: models here are decoders
	NumAttentionHeads        int `json:"num_attention_heads"`        // with prefixes, those of keys and values
	NumLayers                int `json:"num_layers"`

	Origin
}

func (c Prompts) validate() error {
	switch {
	case c.NumVirtualTokens <= 0:
		return fmt.Errorf("num_virtual_tokens is %d, want how many virtual tokens each row begins with, one or more", c.NumVirtualTokens)
	case c.NumTransformerSubmodules != 0 && c.NumTransformerSubmodules != 1:
		return fmt.Errorf("num_transformer_submodules is %d, want 1: models here are decoders", c.NumTransformerSubmodules)
	case len(c.ModulesToSave) > 0:
		return fmt.Errorf("modules_to_save %v is not supported beside virtual tokens, which are all that is trained: leave it out", moduleNames(c.ModulesToSave))
	}
	return c.Origin.validate()
}

// on fills in what the model says, and refuses what contradicts it. dim and heads are a token's features and the heads that
// these belong to.
func (c Prompts) on(layers, dim, heads int) (Prompts, error) {
	for _, f := range []struct {
		field string
		at    *int
		model int
	}{
		{"num_transformer_submodules", &c.NumTransformerSubmodules, 1}, {"num_layers", &c.NumLayers, layers},
		{"token_dim", &c.TokenDim, dim}, {"num_attention_heads", &c.NumAttentionHeads, heads},
	} {
		if *f.at != 0 && *f.at != f.model {
			return c, fmt.Errorf("%s is %d, the model has %d: leave it out", f.field, *f.at, f.model)
		}
		*f.at = f.model
	}
	return c, nil
}

func (c *Prompts) origin() *Origin { return &c.Origin }

// promptSettings are those of PromptLearningConfig.
func (c *Prompts) promptSettings() []setting {
	return []setting{
		sizeSetting("num_virtual_tokens", &c.NumVirtualTokens), sizeSetting("token_dim", &c.TokenDim), sizeSetting("num_transformer_submodules", &c.NumTransformerSubmodules),
		sizeSetting("num_attention_heads", &c.NumAttentionHeads), sizeSetting("num_layers", &c.NumLayers),
	}
}

// encoderIsLost says why what an encoder computed is not trained.
const encoderIsLost = "the file holds what the encoder computed, not the encoder, and as in PEFT it cannot be trained further; resume from a checkpoint of the training, or attach a new adapter"

// newEncoder starts as torch's Embedding and Linears do: N(0, 1), and uniform in ±1/√inputs.
func newEncoder(seed int64, name string, relu bool, tokens int, sizes ...int) *models.VirtualEncoder {
	e := &models.VirtualEncoder{Name: name, Sizes: sizes, ReLU: relu, Embedding: make([]float32, tokens*sizes[0])}
	newStream(seed, models.VirtualPath+".embedding").normal(e.Embedding, 1)
	for i, in := range sizes[:len(sizes)-1] {
		w, b := make([]float32, sizes[i+1]*in), make([]float32, sizes[i+1])
		newStream(seed, fmt.Sprintf("%s.%s.%d.weight", models.VirtualPath, name, i)).uniform(w, 1/math.Sqrt(float64(in)))
		newStream(seed, fmt.Sprintf("%s.%s.%d.bias", models.VirtualPath, name, i)).uniform(b, 1/math.Sqrt(float64(in)))
		e.Weights, e.Biases = append(e.Weights, w), append(e.Biases, b)
	}
	return e
}

func encoderParameters(e *models.VirtualEncoder) int64 {
	n := len(e.Embedding)
	for i, w := range e.Weights {
		n += len(w) + len(e.Biases[i])
	}
	return int64(n)
}
