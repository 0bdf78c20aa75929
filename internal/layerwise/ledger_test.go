//go:build cgo

package layerwise_test

import (
	"fmt"
	"testing"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

// What is in use is counted where buffers are made and destroyed, so that a forecast can be held to it on a device that does not
// count its memory, and without what an allocator loses between tensors.
func TestForecastIsWhatBuffersAndProgramsTake(t *testing.T) {
	cfg := models.LlamaConfig{VocabSize: 600, HiddenSize: 96, IntermediateSize: 256, NumHiddenLayers: 6, NumAttentionHeads: 4,
		NumKeyValueHeads: 2, MaxPositionEmbeddings: 256}
	cases := []struct {
		whole, tied        bool // a whole model is trained
		budget             string
		rows, leads, micro int
	}{
		{budget: "auto", rows: 1, micro: 1},
		{budget: "auto", rows: 3, leads: 2, micro: 1},
		{budget: "0", rows: 3, leads: 2, micro: 1},
		{budget: "auto", rows: 1, leads: 2, micro: 3},
		{whole: true, budget: "auto", rows: 1, micro: 1},
		{whole: true, tied: true, budget: "auto", rows: 1, leads: 2, micro: 1},
		{whole: true, tied: true, budget: "auto", rows: 4, leads: 1, micro: 2},
		{whole: true, budget: "0", rows: 4, micro: 2},
	}
	reference.OnXLA(t, 16, func(t *testing.T, spec string, p *seam.Plugin) {
		for _, c := range cases {
			t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
				w := watch(t, p)
				inUse := func() int64 { n, _ := w.Bytes(); return n }
				inUse()
				o := settings
				o.ResidualBudget, o.Accumulates = c.budget, c.micro > 1
				cfg := cfg
				cfg.TieWordEmbeddings = c.tied
				s := newTrainee(t, cfg, models.Options{Backend: spec, DType: models.Float32, Trainable: c.whole}, o)
				layerwise.Lead(s, c.leads)
				layerwise.PinHost(s, 0)
				var rows [][][]int32
				for r := range c.rows {
					rows = append(rows, documents(uint64(r), 256))
				}
				want, ok, err := layerwise.ForecastAgain(s, packed(256, rows...), inUse)
				if err != nil || !ok {
					t.Fatalf("forecast: %v, error %v", ok, err)
				}
				most := func(peak *int64, part func() error) { // raises peak to the most in use during the part
					t.Helper()
					inUse()
					if err := part(); err != nil {
						t.Fatal(err)
					}
					_, p := w.Bytes()
					*peak = max(*peak, p)
				}
				var pass, update int64
				b := packed(256, rows...)
				for range 3 {
					for range c.micro {
						most(&pass, func() error { _, err := s.MicroStep(t.Context(), b); return err })
						b = packed(256, rows...)
						if err := s.(training.Prefetcher).Prefetch(b); err != nil {
							t.Fatal(err)
						}
					}
					most(&update, func() error {
						_, err := s.Apply(t.Context(), training.ApplyOptions{LearningRate: 1e-3, NumItems: 100})
						return err
					})
				}
				check := func(part string, got, want int64) {
					if e := float64(want)/float64(got) - 1; e < -0.01 || e > 0.01 {
						t.Errorf("%s: forecast %d, and %d were in use: %.2f %% off", part, want, got, 100*e)
					}
				}
				check("pass", pass, max(want.Forward, want.Head, want.Backward))
				check("update", update, want.Update)
			})
		}
	})
}
