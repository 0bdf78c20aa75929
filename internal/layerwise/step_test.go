package layerwise_test

import (
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
		m, err := models.NewRandom(t.Context(), &tiny, 1, models.Options{Backend: spec, DType: models.Float32})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		var last []models.LoRA
		for _, l := range adapters(m, 0) {
			if strings.Contains(l.Path, ".2.") {
				last = append(last, l)
			}
		}
		a, err := m.NewAdapters(last)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		s, err := m.SessionWith(a, settings)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		loss, norm := run(t, s, 5, packed(12, documents(1, 12)))
		if loss[4] >= loss[0] || norm[0] <= 0 {
			t.Errorf("losses %v, gradient norms %v", loss, norm)
		}
	})
}
