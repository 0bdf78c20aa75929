package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/safetensors"
)

// inRepository runs the test where README's commands are run.
func inRepository(t *testing.T) {
	t.Helper()
	t.Chdir(filepath.Join("..", ".."))
}

func TestMainJobTeachesTheModelWhatItDidNotKnow(t *testing.T) {
	if testing.Short() {
		t.Skip("trains for half a minute")
	}
	inRepository(t)
	out := t.TempDir()
	var stdout, stderr bytes.Buffer
	if err := run(context.Background(), []string{"-output", out}, &stdout, &stderr); err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	text := stdout.String()
	var before, after, n, m int
	at := strings.Index(text, "right answers: ")
	if at < 0 {
		t.Fatalf("no count of right answers in:\n%s", text)
	}
	if _, err := fmt.Sscanf(text[at:], "right answers: %d of %d before, %d of %d after", &before, &n, &after, &m); err != nil {
		t.Fatal(err)
	}
	if n < 8 || before > 1 || after < n-2 {
		t.Errorf("%d of %d answers were right before, %d after:\n%s", before, n, after, text)
	}
	if !strings.Contains(text, "nf4 double kept as float32") || !strings.Contains(text, "model.layers.3") {
		t.Errorf("no report on the quantized weights in:\n%s", text)
	}
	for _, name := range []string{"trainer_state.json", "loss.png", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"} {
		if _, err := os.Stat(filepath.Join(out, name)); err != nil {
			t.Error(err)
		}
	}
	f, err := safetensors.Open(filepath.Join(out, "adapter", "adapter_model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, want := len(f.Names()), 4*7*2; got != want {
		t.Errorf("the adapter has %d tensors, want %d", got, want)
	}
}

func TestWrongFlagsAndFilesAreErrors(t *testing.T) {
	inRepository(t)
	bad := filepath.Join(t.TempDir(), "bad.jsonl")
	if err := os.WriteFile(bad, []byte("{\"text\": \"fine\"}\n{\"text\": \n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"no such folder", []string{"-model", "no/such/model"}},
		{"line 2", []string{"-data", bad}},
		{"bad.jsonl", []string{"-questions", bad}},
		{"unexpected argument", []string{"extra"}},
		{"rank must be positive", []string{"-r", "-3"}},
		{"unknown name", []string{"-backend", "tpu"}},
	} {
		args := append([]string{"-output", t.TempDir()}, c.args...)
		var stdout, stderr bytes.Buffer
		if err := run(context.Background(), args, &stdout, &stderr); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got error %v, want one with %q", c.args, err, c.want)
		}
	}
}
