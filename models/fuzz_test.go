package models

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
)

// A config is refused with its path, or a model of its sizes is looked for, without memory for what is not there.
func FuzzConfig(f *testing.F) {
	dirs, err := filepath.Glob("testdata/families/*_*")
	if err != nil {
		f.Fatal(err)
	}
	for _, dir := range append(dirs, reference.Dir("llama_a"), reference.Dir("llama_b"), reference.Dir("llama_c"), "testdata/bnb_fp4", "testdata/bnb_int8") {
		text, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	for _, more := range []string{
		`"head_dim": 16777214, "rope_theta": 1e-300`, `"num_key_value_heads": -1`, `"rope_scaling": {"type": "linear", "factor": 1e308}`,
		`"rms_norm_eps": 1e999`, `"quantization_config": {"load_in_4bit": true, "llm_int8_skip_modules": ["("]}`, `"vocab_size": 9223372036854775807`,
	} {
		f.Add("{" + sizes + more + "}")
	}
	weights, err := os.ReadFile("testdata/bnb_none/model.safetensors")
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "model.safetensors"), weights, 0o644); err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(dir, "config.json")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadConfig(path); err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Errorf("error %q does not name the file", err)
			}
			return
		}
		m, err := FromPretrained(context.Background(), dir, Options{})
		switch {
		case err == nil:
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		case !strings.Contains(err.Error(), dir):
			t.Errorf("error %q does not name the folder", err)
		}
	})
}
