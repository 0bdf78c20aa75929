//go:build cgo

package layerwise_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/models"
)

func TestASessionThatCannotBeginLeavesNothing(t *testing.T) {
	reference.OnXLA(t, 16, func(t *testing.T, spec string, p *seam.Plugin) {
		w := watch(t, p)
		m, a := trainee(t, models.Options{Backend: spec, DType: models.Float32}, 0)
		live := w.LiveBuffers()
		for upload := 0; ; upload++ {
			fired := w.Fired()
			w.Fail(seam.Fault{Program: seam.Upload, After: upload, Text: "no more"})
			s, err := m.SessionWith(a, settings)
			if w.Fired() == fired {
				w.Fail(seam.Fault{Program: "none"})
				if upload < tiny.NumHiddenLayers || err != nil {
					t.Errorf("%d uploads, error %v", upload, err)
				}
				s.Close()
				break
			}
			if err == nil || !strings.Contains(err.Error(), "no more") || w.LiveBuffers() != live {
				t.Fatalf("upload %d: error %v; %d buffers live, %d before", upload, err, w.LiveBuffers(), live)
			}
		}
	})
}

func TestGradientsAtTheEndsAreFreedWhereTheEmbeddingsFail(t *testing.T) {
	b := packed(12, documents(3, 12), documents(4, 5, 6))
	reference.OnXLA(t, 16, func(t *testing.T, spec string, p *seam.Plugin) {
		for name, parts := range endParts {
			for _, tied := range []bool{false, true} {
				t.Run(fmt.Sprint(name, ", tied ", tied), func(t *testing.T) {
					w := watch(t, p)
					m, a := endedOn(t, spec, tied, parts)
					s := session(t, m, a, settings)
					run(t, s, 1, b)
					dir := t.TempDir()
					if err := s.SaveState(dir); err != nil {
						t.Fatal(err)
					}
					if err := s.LoadState(dir); err != nil { // frees what the step left
						t.Fatal(err)
					}
					live := w.LiveBuffers()
					w.Fail(seam.Fault{Program: "embed_backward", Text: "the device is ill"})
					if _, err := s.MicroStep(t.Context(), b); err == nil || w.LiveBuffers() != live {
						t.Errorf("error %v; %d buffers live, %d before", err, w.LiveBuffers(), live)
					}
				})
			}
		}
	})
}
