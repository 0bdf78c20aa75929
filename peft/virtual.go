package peft

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

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
	fields(inferenceMode bool) object
	tokens() int
	base() string
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
	files := adapterFiles{
		config:  appendPythonJSON(nil, s.cfg.fields(true), indented),
		card:    tunerCard(s.cfg.Type(), s.cfg.base()),
		tensors: []safetensors.Tensor{{Name: keyPrompt, DType: "F32", Shape: []int{v.Tokens, s.width}, Data: littleEndian(rows)}},
	}
	return files.save(dir)
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

	TaskType            string `json:"task_type"`               // "" or "CAUSAL_LM"; files get the latter
	BaseModelNameOrPath string `json:"base_model_name_or_path"` // folder or hub id that the tokens belong to
	Revision            string `json:"revision"`                // of the base model on the hub
	InferenceMode       bool   `json:"inference_mode"`          // true in every file, as PEFT writes it
}

func (c Prompts) tokens() int  { return c.NumVirtualTokens }
func (c Prompts) base() string { return c.BaseModelNameOrPath }

func (c Prompts) validate() error {
	switch {
	case c.NumVirtualTokens <= 0:
		return fmt.Errorf("num_virtual_tokens is %d, want how many virtual tokens each row begins with, one or more", c.NumVirtualTokens)
	case c.NumTransformerSubmodules != 0 && c.NumTransformerSubmodules != 1:
		return fmt.Errorf("num_transformer_submodules is %d, want 1: models here are decoders", c.NumTransformerSubmodules)
	}
	return (LoraConfig{TaskType: c.TaskType, BaseModelNameOrPath: c.BaseModelNameOrPath, Revision: c.Revision}).Validate()
}

// on fills in what the model says, and refuses what contradicts it. dim and heads are a token's features and the heads that
// these belong to.
func (c Prompts) on(layers, dim, heads int) (Prompts, error) {
	c.TaskType = TaskCausalLM
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

func (c Prompts) members(peftType string, inferenceMode bool, more ...member) object {
	o := append(object{
		{"base_model_name_or_path", orNull(c.BaseModelNameOrPath)},
		{"inference_mode", inferenceMode},
		{"num_attention_heads", numberOrNull(c.NumAttentionHeads)},
		{"num_layers", numberOrNull(c.NumLayers)},
		{"num_transformer_submodules", numberOrNull(c.NumTransformerSubmodules)},
		{"num_virtual_tokens", c.NumVirtualTokens},
		{"peft_type", peftType},
		{"revision", orNull(c.Revision)},
		{"task_type", orNull(c.TaskType)},
		{"token_dim", numberOrNull(c.TokenDim)},
	}, more...)
	slices.SortFunc(o, func(a, b member) int { return strings.Compare(a.key, b.key) })
	return o
}

func numberOrNull(n int) any {
	if n == 0 {
		return nil
	}
	return n
}

// commonKeys are those of all tuners.
var commonKeys = []string{"task_type", "base_model_name_or_path", "revision", "inference_mode", "peft_type"}

// parseKeys reads an object of settings: own takes those of a tuner, and says whether a key is one of them; the others are
// those that all tuners have, which it returns as a LoraConfig's, and those in shared.
func parseKeys(data []byte, shared []string, own func(key string, v jsontext.Value) (bool, error)) (LoraConfig, []string, error) {
	var file map[string]jsontext.Value
	if err := json.Unmarshal(data, &file); err != nil {
		return LoraConfig{}, nil, fmt.Errorf("not a JSON object: %w", err)
	}
	p := configParser{}
	for _, key := range slices.Sorted(maps.Keys(file)) {
		v := file[key]
		mine, err := own(key, v)
		switch {
		case err != nil || mine:
		case slices.Contains(commonKeys, key) || slices.Contains(shared, key):
			err = p.field(key, v)
		case !slices.Contains(metadataKeys, key):
			p.unknown = append(p.unknown, key)
		}
		if err != nil {
			return LoraConfig{}, nil, fmt.Errorf("%s %s: %w", key, abridged(v), err)
		}
	}
	if len(p.unknown) > 0 {
		p.warnings = append(p.warnings, fmt.Sprintf("unknown keys %v are ignored; a newer PEFT may have written them", p.unknown))
	}
	return p.c, p.warnings, nil
}

// strict makes errors of warnings.
func strict(warnings []string, err error) error {
	if err == nil && len(warnings) > 0 {
		err = errors.New(strings.Join(warnings, "; "))
	}
	return err
}

// field takes a key of PromptLearningConfig.
func (c *Prompts) field(key string, v jsontext.Value) (bool, error) {
	numbers := map[string]*int{
		"num_virtual_tokens": &c.NumVirtualTokens, "token_dim": &c.TokenDim, "num_transformer_submodules": &c.NumTransformerSubmodules,
		"num_attention_heads": &c.NumAttentionHeads, "num_layers": &c.NumLayers,
	}
	if at := numbers[key]; at != nil {
		return true, decodeOptional(v, at, errors.New("must be an integer or null"))
	}
	if key == "modules_to_save" {
		if off(v) {
			return true, nil
		}
		return true, errors.New("not supported beside virtual tokens: " + dissolveRemedy)
	}
	return false, nil
}

// take copies what all tuners have.
func (c *Prompts) take(from LoraConfig) {
	c.TaskType, c.BaseModelNameOrPath, c.Revision, c.InferenceMode = from.TaskType, from.BaseModelNameOrPath, from.Revision, from.InferenceMode
}
