package layerwise_test

import (
	"context"
	"testing"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

// probe calls a function whenever somebody asks whether it is canceled: a pass does so before each span.
type probe struct {
	context.Context
	asked func()
}

func (p probe) Err() error {
	p.asked()
	return nil
}

func TestWhatAStepLeavesIsFreedInEqualPartsBesideTheNextForwardPass(t *testing.T) {
	cfg := tiny
	cfg.NumHiddenLayers = 7
	reference.OnBackends(t, func(t *testing.T, spec string) {
		m, a := traineeOf(t, cfg, models.Options{Backend: spec, DType: models.Float32}, 0)
		s := session(t, m, a, settings)
		b := packed(12, documents(1, 12))
		var seen []int
		for range 3 {
			seen = nil
			ctx := probe{t.Context(), func() { seen = append(seen, layerwise.Trash(s)) }}
			st, err := s.MicroStep(ctx, b)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Apply(t.Context(), training.ApplyOptions{LearningRate: 1e-3, NumItems: float64(st.Labels)}); err != nil {
				t.Fatal(err)
			}
		}
		spans := (len(seen) - 1) / 2 // it is asked before the pass, then before each span, forward and backward
		if spans < 4 {
			t.Skip("small layers run together")
		}
		forward, most := seen[1:1+spans], seen[0]
		for i, left := range forward {
			behind := max(0, i-2) // spans beside which something was freed
			if want := most - most*behind/(spans-2); left > want || left < want-spans {
				t.Errorf("before span %d, %d of %d wait to be freed, want %d: %v", i, left, most, want, forward)
			}
		}
		if rest := seen[1+spans]; most == 0 || rest != 0 {
			t.Errorf("behind the forward pass, %d of %d wait to be freed", rest, most)
		}
	})
}
