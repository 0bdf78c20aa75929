package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/loris-ml/loris/models"
)

func TestItTrainsAndSavesAModelThatLoads(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	dir := t.TempDir()
	corpus := filepath.Join(dir, "corpus.txt")
	text := strings.Repeat("The cat sat on the mat and looked at the moon.\n\n", 60)
	if err := os.WriteFile(corpus, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "model")
	var stdout, stderr bytes.Buffer
	err := run(context.Background(), []string{
		"-corpus", corpus, "-held-out", corpus, "-output", out, "-steps", "12", "-batch", "4", "-length", "64", "-lr", "5e-3",
		"-prompt", "The cat",
	}, &stdout, &stderr)
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	if !strings.Contains(stdout.String(), "trained 12 steps") || !strings.Contains(stdout.String(), "eval_loss") {
		t.Errorf("wrote %q", stdout.String())
	}
	m, err := models.FromPretrained(context.Background(), out, models.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}
