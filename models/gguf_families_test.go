package models

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/safetensors"
)

// testdata/gguf is what scripts/reference/make_family_gguf_fixtures.py made with gguf-py and transformers.
func TestGGUFFilesOfEachFamilyGiveTransformersLogits(t *testing.T) {
	want, err := safetensors.Open("testdata/gguf/logits.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	paths, err := filepath.Glob("testdata/gguf/*.gguf")
	if err != nil || len(paths) != len(want.Names()) {
		t.Fatalf("%d files, %d logits (%v)", len(paths), len(want.Names()), err)
	}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".gguf")
		t.Run(name, func(t *testing.T) {
			m := mustLoad(t, path, Options{DType: Float32})
			info, _ := want.Info(name)
			ids := make([]int, info.Shape[1])
			for i := range ids {
				ids[i] = (7*i*i + 3*i + 1) % info.Shape[2]
			}
			rows, err := m.Logits(context.Background(), [][]int{ids}, nil)
			if err != nil {
				t.Fatal(err)
			}
			var got []float32
			for _, row := range rows[0] {
				got = append(got, row...)
			}
			values, err := want.Float32(name)
			if err != nil {
				t.Fatal(err)
			}
			if e := reference.RelativeError(got, values); !(e < 1e-5) {
				t.Errorf("logits differ by %v of their norm", e)
			}
		})
	}
}
