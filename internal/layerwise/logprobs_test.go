package layerwise_test

import (
	"testing"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/models"
)

func TestScoresDoNotDependOnTheParts(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		m, a := trainee(t, models.Options{Backend: backend, DType: models.Float32}, 0)
		s := session(t, m, a, settings)
		doc := documents(4, 24)[0]
		whole, err := layerwise.ScoreInParts(s, doc[:23], doc[1:], 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []int{1, 7, 22, 23} {
			got, err := layerwise.ScoreInParts(s, doc[:23], doc[1:], part)
			if err != nil {
				t.Fatal(err)
			}
			reference.CheckClose(t, "log-probabilities", got, whole, 1e-6)
		}
	})
}
