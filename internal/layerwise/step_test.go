package layerwise_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

func TestTheGradientAtAFrozenInputIsNotComputed(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, spec string) {
		for name, s := range trainees(t, spec) {
			got, err := layerwise.GradientAtInput(t.Context(), s, packed(12, documents(1, 12)))
			if want := name == "whole model"; err != nil || got != want {
				t.Errorf("%s: computed %v, want %v (error %v)", name, got, want, err)
			}
		}
	})
}

// trainees are sessions of every kind: with adapters, where nothing is kept for the backward pass and where all
// is, and of a whole model, whose embedding lives on the device.
func trainees(t *testing.T, backend string) map[string]training.Session {
	m, a := trainee(t, models.Options{Backend: backend, DType: models.Float32}, 0.2)
	adapted := session(t, m, a, settings)
	layerwise.Lead(adapted, 1)
	lean := settings
	lean.ResidualBudget = "0"
	m, a = trainee(t, models.Options{Backend: backend, DType: models.Float32}, 0.2)
	return map[string]training.Session{
		"adapters":     adapted,
		"nothing kept": session(t, m, a, lean),
		"whole model":  wholeModel(t, backend),
	}
}

// lastAdapted is a session of adapters in the last of three layers alone. On a GPU, layers are so wide that each has a span of its own.
func lastAdapted(t *testing.T, spec string, o training.SessionOptions) training.Session {
	t.Helper()
	cfg := tiny
	if strings.HasPrefix(spec, "xla:cuda") {
		cfg.HiddenSize, cfg.IntermediateSize, cfg.NumAttentionHeads, cfg.NumKeyValueHeads = 1536, 3072, 12, 6
	}
	m, _ := traineeOf(t, cfg, models.Options{Backend: spec, DType: models.Float32}, 0)
	last := slices.DeleteFunc(adapters(m, 0), func(l models.LoRA) bool { return !strings.Contains(l.Path, ".2.") })
	a, err := m.NewAdapters(last)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return session(t, m, a, o)
}

func TestTheBackwardPassEndsAtTheFirstAdapter(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, spec string) {
		for _, budget := range []string{"0", "auto"} {
			o := settings
			o.ResidualBudget = budget
			ends, goesOn := lastAdapted(t, spec, o), lastAdapted(t, spec, o)
			if got := layerwise.EndBackwardAt(goesOn, 0); got != 2 {
				t.Errorf("budget %s: the backward pass ends at span %d, want 2", budget, got)
			}
			b := packed(12, documents(1, 12))
			loss, norm := run(t, ends, 5, b)
			wantLoss, wantNorm := run(t, goesOn, 5, b)
			for i := range loss { // XLA's sums on a CPU are in any order
				if math.Abs(loss[i]-wantLoss[i]) > 1e-5*wantLoss[i] || math.Abs(norm[i]-wantNorm[i]) > 1e-5*wantNorm[i] {
					t.Errorf("budget %s, step %d: loss %v, gradient norm %v; through all layers %v, %v", budget, i, loss[i], norm[i], wantLoss[i], wantNorm[i])
				}
			}
			if loss[4] >= loss[0] || norm[0] <= 0 {
				t.Errorf("budget %s: losses %v, gradient norms %v", budget, loss, norm)
			}
		}
	})
}
