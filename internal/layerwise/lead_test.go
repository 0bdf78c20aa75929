package layerwise_test

import (
	"fmt"
	"testing"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

// What the next batch goes through before it is asked for is what it would go through then: with dropout, which follows the step,
// noise, trained embeddings, and with weights that are others meanwhile.
func TestLaunchingAheadChangesNothing(t *testing.T) {
	batches := []*training.Batch{packed(11, documents(1, 11), documents(2, 7)), packed(11, documents(3, 4, 5), documents(4, 9)), packed(9, documents(5, 9))}
	reference.OnBackends(t, func(t *testing.T, spec string) {
		for name, make := range map[string]func(t *testing.T) training.Session{
			"adapters, dropout, noise": func(t *testing.T) training.Session {
				m, a := trainee(t, models.Options{Backend: spec, DType: models.Float32}, 0.2)
				o := settings
				o.NEFTuneNoiseAlpha = 5
				return session(t, m, a, o)
			},
			"whole model": func(t *testing.T) training.Session { return wholeModel(t, spec) },
			"adapters of the last layer alone, noise": func(t *testing.T) training.Session {
				o := settings
				o.NEFTuneNoiseAlpha = 5
				return lastAdapted(t, spec, o)
			},
		} {
			t.Run(name, func(t *testing.T) {
				course := func(spans int) (seen []string) {
					s := make(t)
					layerwise.Lead(s, spans)
					start, led, trash := t.TempDir(), 0, 0
					step := func(b, next *training.Batch) {
						st, err := s.MicroStep(t.Context(), b)
						if err != nil {
							t.Fatal(err)
						}
						if err := s.(training.Prefetcher).Prefetch(next); err != nil {
							t.Fatal(err)
						}
						norm, err := s.Apply(t.Context(), training.ApplyOptions{LearningRate: 1e-2, NumItems: float64(st.Labels), MaxGradNorm: 1})
						if err != nil {
							t.Fatal(err)
						}
						seen, led = append(seen, fmt.Sprint(st, norm)), led+layerwise.Led(s)
					}
					for i := range 7 { // the first time a shape comes, nobody knows its plan ahead
						step(batches[i%3], batches[(i+1)%3])
						if got := layerwise.Trash(s); i == 3 {
							trash = got
						} else if i > 3 && got > trash {
							t.Errorf("after step %d %d tensors wait to be freed, %d before", i, got, trash)
						}
						if i == 1 {
							if err := s.SaveState(start); err != nil {
								t.Fatal(err)
							}
						}
					}
					st, err := s.Evaluate(t.Context(), batches[0]) // with a batch on its way
					if err != nil {
						t.Fatal(err)
					}
					seen = append(seen, fmt.Sprint(st))
					if err := s.LoadState(start); err != nil {
						t.Fatal(err)
					}
					step(batches[1], batches[0]) // that Prefetch has launched with the values before
					if (led > 0) != (spans > 0) {
						t.Errorf("%d spans launched ahead of %d steps", led, 8)
					}
					return seen
				}
				want, got := course(0), course(2)
				for i := range want {
					if got[i] != want[i] {
						t.Errorf("%d: launched ahead %s, else %s", i, got[i], want[i])
					}
				}
			})
		}
	})
}
