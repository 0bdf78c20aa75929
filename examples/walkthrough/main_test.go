package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFiveStepsTeachTheInstructions(t *testing.T) {
	if testing.Short() {
		t.Skip("trains for a while")
	}
	t.Chdir(filepath.Join("..", ".."))
	out := t.TempDir()
	var stdout, stderr bytes.Buffer
	if err := run(t.Context(), []string{"-output", out, "-epochs", "20"}, &stdout, &stderr); err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	for _, says := range []string{"trained 40 steps", "hot\n  answer:   cold", "big\n  answer:   small"} {
		if !strings.Contains(stdout.String(), says) {
			t.Errorf("no %q in\n%s", says, stdout.String())
		}
	}
	for _, name := range []string{"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "README.md", "loss.png", "checkpoint-40", "runs"} {
		if _, err := os.Stat(filepath.Join(out, name)); err != nil {
			t.Error(err)
		}
	}
}

func TestRowsWithoutAnOutputAreRefused(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	data := filepath.Join(t.TempDir(), "x.jsonl")
	if err := os.WriteFile(data, []byte("{\"instruction\": \"a\", \"output\": \"b\"}\n{\"instruction\": \"a\"}\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	err := run(t.Context(), []string{"-data", data, "-output", t.TempDir()}, &bytes.Buffer{}, &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "x.jsonl") || !strings.Contains(err.Error(), "row 2") || !strings.Contains(err.Error(), `"output"`) {
		t.Errorf("error %v", err)
	}
}
