package models

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/loris-ml/loris/internal/gguf"
)

// saveGGUF saves a fixture; skipped says that llama.cpp cannot compute it.
func saveGGUF(t *testing.T, f *family, o GGUFOptions) (m *CausalLM, path string, skipped bool) {
	t.Helper()
	m = mustLoad(t, f.dir, Options{DType: Float32, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	path = filepath.Join(t.TempDir(), f.name+".gguf")
	err := m.SaveGGUF(path, o)
	if _, unsupported := errors.AsType[*UnsupportedError](err); unsupported {
		return m, path, true
	}
	if err != nil {
		t.Fatal(err)
	}
	return m, path, false
}

// The fixtures with what llama.cpp cannot compute: biases, scales and widths of heads of their own.
var unsupportedInGGUF = []string{"qwen2_plain", "qwen2_window", "qwen3_window", "gemma_bias", "gemma2_caps", "gemma2_plain", "gemma3_pattern", "gemma3_types", "gemma3_vision"}

func TestFamiliesComeBackFromGGUF(t *testing.T) {
	written := 0
	eachFamily(t, "", nil, func(t *testing.T, f *family) {
		m, path, skipped := saveGGUF(t, f, GGUFOptions{Type: "f32"})
		if skipped {
			if !slices.Contains(unsupportedInGGUF, f.name) {
				t.Error("it is said to be unsupported")
			}
			return
		}
		written++
		back := mustLoad(t, path, Options{DType: Float32})
		want, got := f.logits(t, m, nil), f.logits(t, back, nil)
		diff, norm := 0.0, 0.0
		for i := range want {
			diff += math.Pow(float64(got[i]-want[i]), 2)
			norm += math.Pow(float64(want[i]), 2)
		}
		// Mistral's window has no key in GGUF.
		windowed := f.name == "mistral_window"
		if rel := math.Sqrt(diff / norm); !windowed && !(rel < 2e-6) {
			t.Errorf("logits differ by %v of their norm", rel)
		}
	})
	if written < 6 {
		t.Errorf("only %d families were written", written)
	}
}

func TestGGUFAdapterHasLlamasRowsAndScale(t *testing.T) {
	eachFamily(t, "", nil, func(t *testing.T, f *family) {
		m := mustLoad(t, f.dir, Options{DType: Float32})
		loras := f.loras(t)
		path := filepath.Join(t.TempDir(), "adapter.gguf")
		if err := m.SaveGGUFAdapter(path, 8, loras); err != nil {
			t.Fatal(err)
		}
		file, err := gguf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if kind, _ := file.Metadata().String("general.type"); kind != "adapter" || len(file.Tensors()) != 2*len(loras) {
			t.Errorf("type %q, %d tensors for %d adapters", kind, len(file.Tensors()), len(loras))
		}
		for _, l := range loras {
			place := m.arch.(ggufFamily).ggufLayout().tensor(m.arch, l.Path+".weight")
			b, err := file.Float32(place.name + ".lora_b")
			if err != nil {
				t.Fatal(err)
			}
			for i := range l.B {
				row := i / l.R
				if place.rows != nil {
					row = place.rows[row]
				}
				if got, want := float64(b[row*l.R+i%l.R])*8/float64(l.R), float64(l.B[i])*l.Scaling; math.Abs(got-want) > 1e-6*(1+math.Abs(want)) {
					t.Fatalf("%s: row %d is %v, want %v", l.Path, i/l.R, got, want)
				}
			}
		}
		if _, err := FromPretrained(context.Background(), path, Options{}); err == nil {
			t.Error("an adapter was loaded as a model")
		}
	})
}
