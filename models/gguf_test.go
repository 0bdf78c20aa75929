package models

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/gguf"
	"github.com/loris-ml/loris/internal/reference"
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

func TestGGUFTypesHoldTheValuesRoundedAsGGMLRoundsThem(t *testing.T) {
	config := &LlamaConfig{VocabSize: 96, HiddenSize: 64, IntermediateSize: 40, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 2}
	m, err := NewRandom(context.Background(), config, 5, Options{DType: Float32, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for name, limit := range map[string]float64{"f32": 0, "f16": 5e-4, "bf16": 3e-3, "q8_0": 1e-2, "q4_0": 0.15} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.gguf")
			if err := m.SaveGGUF(path, GGUFOptions{Type: name}); err != nil {
				t.Fatal(err)
			}
			f, err := gguf.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for tensor, want := range map[string]string{
				"token_embd.weight": name, "blk.1.attn_q.weight": name, "blk.1.attn_norm.weight": "f32", "output_norm.weight": "f32",
			} {
				if info, _ := f.Tensor(tensor); !strings.EqualFold(info.Type.String(), want) {
					t.Errorf("%s is %s, want %s", tensor, info.Type, want)
				}
			}
			// Rows of 40 are no whole blocks.
			if info, _ := f.Tensor("blk.0.ffn_down.weight"); strings.HasPrefix(name, "q") && info.Type != gguf.F16 {
				t.Errorf("blk.0.ffn_down.weight is %s", info.Type)
			}
			back := mustLoad(t, path, Options{DType: Float32})
			for tensor := range tensorShapes(m.arch) {
				want, err := m.Tensor(tensor)
				if err != nil {
					t.Fatal(err)
				}
				got, err := back.Tensor(tensor)
				if err != nil {
					t.Fatal(err)
				}
				if e := reference.RelativeError(got, want); !(e <= limit) {
					t.Errorf("%s differs by %v, want %v at most", tensor, e, limit)
				}
			}
		})
	}
	var unsupported *UnsupportedError
	if err := m.SaveGGUF(filepath.Join(t.TempDir(), "x.gguf"), GGUFOptions{Type: "q4_k"}); !errors.As(err, &unsupported) {
		t.Errorf("type q4_k: error %v", err)
	}
}
