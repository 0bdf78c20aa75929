package models

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestModelsInTheHubsCacheAreLoadedByID(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("HF_HUB_CACHE", cache)
	snapshot := filepath.Join(cache, "models--org--tiny", "snapshots", "abc")
	if err := os.CopyFS(snapshot, os.DirFS("testdata/families/qwen3_yarn")); err != nil {
		t.Fatal(err)
	}
	refs := filepath.Join(cache, "models--org--tiny", "refs")
	if err := os.MkdirAll(refs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(refs, "main"), []byte("abc"), 0o644); err != nil {
		t.Fatal(err)
	}
	m := mustLoad(t, "org/tiny", Options{})
	if m.Path() != "org/tiny" || m.Config().ModelType() != "qwen3" {
		t.Errorf("%s was loaded as %s", m.Path(), m.Config().ModelType())
	}
	if _, err := FromPretrained(context.Background(), "org/other", Options{}); err == nil || !strings.Contains(err.Error(), "hub.Download") {
		t.Errorf("a model that is not there: %v", err)
	}
}
