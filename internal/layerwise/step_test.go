package layerwise_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/reference"
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

func TestAdaptersOfTheLastLayerAloneAreTrained(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, spec string) {
		m, _ := trainee(t, models.Options{Backend: spec, DType: models.Float32}, 0)
		last := slices.DeleteFunc(adapters(m, 0), func(l models.LoRA) bool { return !strings.Contains(l.Path, ".2.") })
		a, err := m.NewAdapters(last)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Close() })
		loss, norm := run(t, session(t, m, a, settings), 5, packed(12, documents(1, 12)))
		if loss[4] >= loss[0] || norm[0] <= 0 {
			t.Errorf("losses %v, gradient norms %v", loss, norm)
		}
	})
}
