package peft

import (
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/models"
)

// Float8 changes logits by some percent, packed and unpacked weights alike, and a model that computes in it can be merged.
func TestFloat8LogitsAreNearAndMergeable(t *testing.T) {
	ref := reference.LoadLlama(t, "llama_a")
	var all [][]float32
	for _, o := range []models.Options{
		{Quantization: nf4(), ComputeDType: models.BFloat16}, {Quantization: nf4(), ComputeDType: models.Float8E4M3},
		{Quantization: nf4(), ComputeDType: models.Float8E4M3, KeepPacked: true},
	} {
		p := tuned(t, ref, o)
		logits, err := p.Logits(t.Context(), ref.InputIDs[0], ref.AttentionMask[0])
		if err != nil {
			t.Fatal(err)
		}
		var flat []float32
		for i, row := range logits[0] {
			if ref.AttentionMask[0][0][i] == 1 {
				flat = append(flat, row...)
			}
		}
		all = append(all, flat)
		if err := p.SaveMerged(t.TempDir(), MergeOptions{}); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if e := reference.RelativeError(all[1], all[0]); !(e <= 0.15) || e < 5e-3 {
		t.Errorf("logits in float8 are off by %.2g", e)
	}
	if e := reference.RelativeError(all[2], all[1]); !(e <= 0.03) {
		t.Errorf("logits of packed weights in float8 are off by %.2g from those of unpacked ones", e)
	}
}
