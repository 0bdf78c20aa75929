package peft

import (
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/quant"
)

func TestMergedAdaptersComputeTheSameAndComeOutAgain(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		for _, o := range []models.Options{{DType: models.Float32}, {DType: models.Float32, Quantization: nf4()}} {
			o.Backend, o.Logger = backend, slog.New(slog.NewTextHandler(io.Discard, nil))
			m := loadTiny(t, filepath.Join("..", "models", "testdata", "bnb_none"), o)
			base := logitsOf(t, m)
			p := three(t, m)
			if err := p.SetAdapter("b", "c"); err != nil {
				t.Fatal(err)
			}
			want := logitsOf(t, p)
			sums := sumsOf(t, p, o.Quantization != nil)
			if err := p.MergeAdapter(true); err != nil {
				t.Fatal(err)
			}
			if o.Quantization == nil {
				reference.CheckClose(t, "merged", logitsOf(t, m), want, 1e-5)
			}
			for path, sum := range sums {
				if w, err := m.Tensor(path + ".weight"); err != nil || !slices.Equal(w, sum) {
					t.Errorf("the weight of %s is not the sum: %v", path, err)
				}
			}
			if got := logitsOf(t, p); !slices.Equal(got, logitsOf(t, m)) || !slices.Equal(p.MergedAdapters(), []string{"b", "c"}) {
				t.Error("merged adapters count twice")
			}
			for name, err := range map[string]error{
				"MergeAdapter":    p.MergeAdapter(false),
				"SetAdapter":      p.SetAdapter("a"),
				"AddAdapter":      p.AddAdapter("d", LoraConfig{}),
				"DisableAdapters": p.DisableAdapters(func() error { return nil }),
				"SaveMerged":      p.SaveMerged(t.TempDir(), MergeOptions{}),
				"DeleteAdapter":   p.DeleteAdapter("b"),
			} {
				if err == nil || !strings.Contains(err.Error(), "merged") {
					t.Errorf("%s while adapters are merged: %v", name, err)
				}
			}
			if err := p.UnmergeAdapter(); err != nil {
				t.Fatal(err)
			}
			if o.Quantization == nil { // else it was quantized twice
				reference.CheckClose(t, "unmerged base", logitsOf(t, m), base, 1e-5)
				reference.CheckClose(t, "adapters after unmerging", logitsOf(t, p), want, 1e-5)
			}
		}
	})
}

// sumsOf are the weights that merging the active adapters gives, by path.
func sumsOf(t *testing.T, p *PeftModel, requantize bool) map[string][]float32 {
	t.Helper()
	loras, err := p.activeLoras()
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string][]float32{}
	for _, l := range loras {
		w, err := p.base.SumOf(l)
		if err == nil && requantize {
			var codes []byte
			var state *quant.QuantState
			if codes, state, err = quant.Quantize4Bit(w, quant.NF4, quant.DefaultBlocksize, true); err == nil {
				w, err = quant.Dequantize4Bit(codes, state)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		sums[l.Path] = w
	}
	return sums
}

func TestSafeMergeRefusesBrokenAdapters(t *testing.T) {
	m := llamaBase(t, "")
	base := logitsOf(t, m)
	p := newPeftModel(m, []Option{quiet})
	cfg, weights, _, err := LoadAdapter(combinedDir("a"))
	if err != nil {
		t.Fatal(err)
	}
	path := weights[1].Path
	var zero float32
	weights[1].B[0] = zero / zero
	if err := attachLora(p, cfg, weights); err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.MergeAdapter(true); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("the merged weight of %q has NaN", path)) {
		t.Errorf("error %v", err)
	}
	if !slices.Equal(logitsOf(t, m), base) || m.Altered() != "" {
		t.Error("a refused merge has changed the base")
	}
}
