package models

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/loris-ml/loris/internal/nn"
)

const sizes = `"model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4, `

func readText(t *testing.T, text string) (*LlamaConfig, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	arch, err := ReadConfig(path)
	if err != nil {
		return nil, err
	}
	return arch.(*LlamaConfig), nil
}

func frequencies(r nn.Rope) []float32 {
	inverse, _ := r.Tables[0](1)
	return inverse
}

func TestBothLayoutsOfConfigGiveTheSameFrequencies(t *testing.T) {
	const llama3 = `"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32`
	for name, layouts := range map[string][]string{
		"default": {
			`"rope_theta": 50000.0, "torch_dtype": "bfloat16"`,
			`"rope_theta": 50000.0, "rope_scaling": null, "torch_dtype": "float16"`,
			`"rope_theta": 50000, "rope_scaling": {}, "rope_parameters": {"rope_type": "default"}`,
			`"rope_parameters": {"rope_type": "default", "rope_theta": 50000.0}, "dtype": "bfloat16"`,
			`"rope_parameters": {"rope_theta": 50000.0}, "rope_theta": 7.0, "dtype": "float32"`,
		},
		"linear": {
			`"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}`,
			`"rope_scaling": {"rope_type": "linear", "factor": 4.0}`,
			`"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}`,
			`"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "rope_parameters": {"rope_type": "default", "rope_theta": 3.0}`,
		},
		"llama3": {
			`"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", ` + llama3 + `}, "torch_dtype": "bfloat16"`,
			`"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, ` + llama3 + `}, "dtype": "bfloat16"`,
		},
	} {
		var want []float32
		for i, layout := range layouts {
			c, err := readText(t, "{"+sizes+layout+"}")
			if err != nil {
				t.Fatalf("%s, layout %d: %v", name, i, err)
			}
			if got := frequencies(c.dims().rope); i == 0 {
				want = got
			} else if !slices.Equal(got, want) {
				t.Errorf("%s: %s gives %v, want %v", name, layout, got, want)
			}
			text, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			back, err := readText(t, string(text))
			if err != nil || !slices.Equal(frequencies(back.dims().rope), want) {
				t.Errorf("%s: written as %s, it gives other frequencies (%v)", layout, text, err)
			}
			var old, recent struct {
				Theta      float64      `json:"rope_theta"`
				Scaling    *RopeScaling `json:"rope_scaling"`
				Parameters *RopeScaling `json:"rope_parameters"`
			}
			if err := json.Unmarshal(text, &old); err != nil {
				t.Fatal(err)
			}
			recent, old.Parameters = old, nil
			if got := frequencies(old.Scaling.filled(old.Theta, 0, 0, 0).rope(16, 0)); !slices.Equal(got, want) {
				t.Errorf("%s: transformers 4 would read %v, want %v", text, got, want)
			}
			if got := frequencies(recent.Parameters.filled(0, 0, 0, 0).rope(16, 0)); !slices.Equal(got, want) {
				t.Errorf("%s: transformers 5 would read %v, want %v", text, got, want)
			}
		}
	}
}

func TestFactorsOfLlama3InAGGUFFileAreFoundToBeThat(t *testing.T) {
	want := &RopeScaling{RopeType: "llama3", Factor: 32, LowFreqFactor: 1, HighFreqFactor: 4, OriginalMaxPositionEmbeddings: 8192}
	factors := want.llama3Factors(500000, 128)
	if got := llama3Of(factors, 500000, 128); !reflect.DeepEqual(got, want) {
		t.Errorf("found %+v, want %+v", got, want)
	}
	factors[3] *= 1.5
	if got := llama3Of(factors, 500000, 128); got != nil {
		t.Errorf("found %+v in factors of no model of Meta's", got)
	}
}
