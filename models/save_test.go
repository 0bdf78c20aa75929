package models

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
)

func TestSavedModelLoadsWithTheSameLogits(t *testing.T) {
	ctx := context.Background()
	for _, name := range reference.Llamas {
		t.Run(name, func(t *testing.T) {
			ref := reference.LoadLlama(t, name)
			dir := t.TempDir()
			if err := mustLoad(t, ref.Dir, Options{}).SavePretrained(dir); err != nil {
				t.Fatal(err)
			}
			logits, err := mustLoad(t, dir, Options{}).Logits(ctx, ref.InputIDs[0], ref.AttentionMask[0])
			if err != nil {
				t.Fatal(err)
			}
			ref.CheckLogits(t, "base.logits", logits, 1e-5)
		})
	}
}

func TestSavedAsBFloat16LoadsRounded(t *testing.T) {
	ctx := context.Background()
	ref := reference.LoadLlama(t, "llama_a")
	dir := t.TempDir()
	if err := mustLoad(t, ref.Dir, Options{}).SaveAs(dir, BFloat16); err != nil {
		t.Fatal(err)
	}
	logits, err := mustLoad(t, dir, Options{}).Logits(ctx, ref.InputIDs[0], ref.AttentionMask[0])
	if err != nil {
		t.Fatal(err)
	}
	ref.CheckLogits(t, "base.logits", logits, 2e-2)
}

func TestSavedConfigKeepsWhatTheCheckpointSaidBeyondTheModel(t *testing.T) {
	dir := copyOf(t, "llama_a")
	edit("eos_token_id", []int{7, 9})(t, dir)
	edit("transformers_version", "4.0")(t, dir)
	edit("quantization_config", nil)(t, dir)
	to := t.TempDir()
	if err := mustLoad(t, dir, Options{}).SaveAs(to, BFloat16); err != nil {
		t.Fatal(err)
	}
	read := func(dir string) (all map[string]any) {
		raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err == nil {
			err = json.Unmarshal(raw, &all)
		}
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	got, was := read(to), read(dir)
	for _, key := range []string{"eos_token_id", "bos_token_id", "initializer_range", "architectures", "hidden_size", "rope_parameters"} {
		if !reflect.DeepEqual(got[key], was[key]) {
			t.Errorf("%s is %v, want %v", key, got[key], was[key])
		}
	}
	if got["torch_dtype"] != "bfloat16" || got["dtype"] != nil || got["transformers_version"] != nil {
		t.Errorf("torch_dtype is %v, dtype %v, transformers_version %v", got["torch_dtype"], got["dtype"], got["transformers_version"])
	}
	want, err := os.ReadFile(filepath.Join(dir, generationName))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(to, generationName)); err != nil || !bytes.Equal(text, want) {
		t.Errorf("%s is %s (%v), want %s", generationName, text, err, want)
	}
}
