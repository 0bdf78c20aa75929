package models

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/safetensors"
)

// rewrite copies a family's fixture with other tensors and other fields of its config.
func rewrite(t *testing.T, fixture string, fields map[string]any, change func(all []safetensors.Tensor) []safetensors.Tensor) string {
	t.Helper()
	from, to := filepath.Join("testdata/families", fixture), t.TempDir()
	set, err := safetensors.OpenDir(filepath.Join(from))
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	var all []safetensors.Tensor
	for _, name := range set.Names() {
		info, _ := set.Info(name)
		raw, err := set.Read(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, safetensors.Tensor{Name: name, DType: info.DType, Shape: info.Shape, Data: raw})
	}
	config, err := os.ReadFile(filepath.Join(from, "config.json"))
	if err == nil {
		err = os.WriteFile(filepath.Join(to, "config.json"), config, 0o644)
	}
	if err == nil {
		err = safetensors.Write(filepath.Join(to, safetensors.SingleName), change(all), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range fields {
		edit(name, value)(t, to)
	}
	return to
}

func without(part string) func([]safetensors.Tensor) []safetensors.Tensor {
	return func(all []safetensors.Tensor) []safetensors.Tensor {
		return slices.DeleteFunc(all, func(t safetensors.Tensor) bool { return strings.Contains(t.Name, part) })
	}
}

func same(all []safetensors.Tensor) []safetensors.Tensor { return all }

func TestTensorsThatContradictTheConfigAreAllNamed(t *testing.T) {
	for _, c := range []struct {
		name, fixture               string
		fields                      map[string]any
		change                      func([]safetensors.Tensor) []safetensors.Tensor
		missing, unknown, misshapen []string
	}{
		{
			name: "biases that the config does not have", fixture: "qwen3_window", fields: map[string]any{"attention_bias": false}, change: same,
			unknown: []string{
				"model.layers.0.self_attn.k_proj.bias", "model.layers.0.self_attn.o_proj.bias", "model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.v_proj.bias",
				"model.layers.1.self_attn.k_proj.bias", "model.layers.1.self_attn.o_proj.bias", "model.layers.1.self_attn.q_proj.bias", "model.layers.1.self_attn.v_proj.bias",
				"model.layers.2.self_attn.k_proj.bias", "model.layers.2.self_attn.o_proj.bias", "model.layers.2.self_attn.q_proj.bias", "model.layers.2.self_attn.v_proj.bias",
			},
		},
		{
			name: "another family", fixture: "qwen3_yarn", fields: map[string]any{"model_type": "mistral"}, change: same,
			unknown: []string{
				"model.layers.0.self_attn.k_norm.weight", "model.layers.0.self_attn.q_norm.weight",
				"model.layers.1.self_attn.k_norm.weight", "model.layers.1.self_attn.q_norm.weight",
			},
		},
		{
			name: "fewer layers and another head", fixture: "mistral_window", fields: map[string]any{"num_hidden_layers": 1, "vocab_size": 68}, change: without(".mlp."),
			missing:   []string{"model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"},
			unknown:   []string{"model.layers.1.input_layernorm.weight", "model.layers.1.post_attention_layernorm.weight", "model.layers.1.self_attn.k_proj.weight", "model.layers.1.self_attn.o_proj.weight", "model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.v_proj.weight"},
			misshapen: []string{"lm_head.weight is [67 32], config.json says [68 32]", "model.embed_tokens.weight is [67 32], config.json says [68 32]"},
		},
		{
			name: "no head, but not tied", fixture: "gemma2_caps", fields: map[string]any{"tie_word_embeddings": false}, change: same,
			missing: []string{"lm_head.weight"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := rewrite(t, c.fixture, c.fields, c.change)
			_, err := FromPretrained(context.Background(), dir, Options{})
			var e *TensorsError
			if !errors.As(err, &e) {
				t.Fatalf("error %v", err)
			}
			if e.Path != dir || !slices.Equal(e.Missing, c.missing) || !slices.Equal(e.Unknown, c.unknown) || !slices.Equal(e.Misshapen, c.misshapen) {
				t.Errorf("%+v", *e)
			}
			for _, name := range slices.Concat(c.missing, c.unknown, c.misshapen) {
				if !strings.Contains(err.Error(), name) {
					t.Errorf("error %q does not name %s", err, name)
				}
			}
		})
	}
}

func TestTiedHeadMayLieBesideTheEmbeddingIfItIsTheSame(t *testing.T) {
	head := func(spoil byte) func([]safetensors.Tensor) []safetensors.Tensor {
		return func(all []safetensors.Tensor) []safetensors.Tensor {
			for _, e := range all {
				if e.Name == embeddingName {
					data := slices.Clone(e.Data)
					data[7] ^= spoil
					frequencies := safetensors.Tensor{Name: "model.layers.0.self_attn.rotary_emb.inv_freq", DType: "F32", Shape: []int{1}, Data: []byte{0, 0, 0, 0}}
					return append(all, safetensors.Tensor{Name: headName, DType: e.DType, Shape: e.Shape, Data: data}, frequencies)
				}
			}
			return all
		}
	}
	mustLoad(t, rewrite(t, "gemma2_caps", nil, head(0)), Options{})
	_, err := FromPretrained(context.Background(), rewrite(t, "gemma2_caps", nil, head(1)), Options{})
	if err == nil || !strings.Contains(err.Error(), "tie_word_embeddings") || !strings.Contains(err.Error(), headName) {
		t.Errorf("error %v", err)
	}
}

func TestFieldsThatFamiliesDoNotTakeAreNamed(t *testing.T) {
	for _, c := range []struct {
		fixture, field string
		value          any
		want           []string
		unsupported    bool
	}{
		{"mistral_window", "sliding_window", 0, []string{"sliding_window is 0"}, false},
		{"mistral_window", "hidden_act", "gelu", []string{"hidden_act gelu", "silu"}, true},
		{"qwen2_window", "layer_types", []string{"full_attention"}, []string{"layer_types has 1", "3"}, false},
		{"qwen2_window", "layer_types", []string{"full_attention", "linear_attention", "full_attention"}, []string{"linear_attention", "sliding_attention"}, true},
		{"qwen3_yarn", "rope_scaling", map[string]any{"rope_type": "mrope"}, []string{"rope_type mrope", "yarn"}, true},
		{"qwen3_yarn", "rope_scaling", map[string]any{"rope_type": "yarn", "beta_fast": -1}, []string{"beta_fast -1"}, false},
		{"qwen3_yarn", "rope_scaling", map[string]any{"rope_type": "default", "partial_rotary_factor": 0.5}, []string{"partial_rotary_factor 0.5"}, true},
		{"gemma_wide", "hidden_act", "relu", []string{"hidden_act relu", "gelu_pytorch_tanh"}, true},
		{"gemma_wide", "use_bidirectional_attention", true, []string{"use_bidirectional_attention true"}, true},
		{"gemma2_caps", "attn_logit_softcapping", -1, []string{"attn_logit_softcapping is -1"}, false},
		{"gemma3_types", "rope_parameters", map[string]any{"rope_type": "default"}, []string{"rope_parameters"}, false},
		{"gemma3_vision", "text_config", nil, []string{"gemma3", "text_config"}, false},
		{"phi3_longrope", "partial_rotary_factor", 0.5, nil, false}, // rope_parameters goes before it
		{"phi3_longrope", "resid_pdrop", 0.1, []string{"resid_pdrop", "0.1"}, true},
		{"phi3_longrope", "rope_scaling", map[string]any{"type": "su", "short_factor": []int{1}, "long_factor": []int{1}}, []string{"_factor has 1 values, want 8"}, false},
		{"phi3_window", "rope_scaling", map[string]any{"type": "linear", "factor": 2}, []string{"rope_type linear", "longrope"}, true},
		{"granite_bias", "logits_scaling", -2, []string{"logits_scaling is -2"}, false},
	} {
		t.Run(c.fixture+" "+c.field, func(t *testing.T) {
			dir := rewrite(t, c.fixture, map[string]any{c.field: c.value}, same)
			_, err := ReadConfig(filepath.Join(dir, "config.json"))
			if c.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Fatal("it is taken")
			}
			var u *UnsupportedError
			if errors.As(err, &u) != c.unsupported {
				t.Errorf("error %v is of type %T", err, err)
			}
			for _, w := range append(c.want, "config.json") {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not contain %q", err, w)
				}
			}
		})
	}
}
