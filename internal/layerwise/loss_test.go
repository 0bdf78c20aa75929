package layerwise_test

import (
	"math"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

func TestLossOfOnesOwnThatIsCrossEntropyTrainsTheSame(t *testing.T) {
	own := &training.Loss{Name: "own", PerLabel: func(logits, labels *Node) *Node { return Neg(training.LabelLogProbs(logits, labels)) }}
	b := packed(14, documents(1, 9, 4), documents(2, 13))
	reference.OnBackends(t, func(t *testing.T, backend string) {
		m, a := trainee(t, models.Options{Backend: backend, DType: models.Float32}, 0)
		loss, norm := run(t, session(t, m, a, settings), 4, b)
		o := settings
		o.Loss = own
		m, a = trainee(t, models.Options{Backend: backend, DType: models.Float32}, 0)
		l, n := run(t, session(t, m, a, o), 4, b)
		same(t, "own loss", l, n, loss, norm, 1e-5)
	})
}

func TestLossOfTheWrongShapeIsAnErrorThatSaysWhatIsWanted(t *testing.T) {
	o := settings
	o.Loss = &training.Loss{Name: "mean", PerLabel: func(logits, labels *Node) *Node { return ReduceAllMean(logits) }}
	m, a := trainee(t, models.Options{}, 0)
	_, err := session(t, m, a, o).MicroStep(t.Context(), packed(14, documents(1, 9)))
	if err == nil || !strings.Contains(err.Error(), `the loss "mean" returns`) || !strings.Contains(err.Error(), "one float32 per label, [14]") {
		t.Errorf("error %v", err)
	}
}

func TestNoiseIsAddedWhileTrainingOnlyAndFollowsTheRows(t *testing.T) {
	two := documents(3, 12, 12)
	b, swapped := packed(12, two[:1], two[1:]), packed(12, two[1:], two[:1])
	swapped.RowSeeds = []uint64{1, 0}
	reference.OnBackends(t, func(t *testing.T, backend string) {
		stats := func(alpha float64, b *training.Batch) (train, eval float64) {
			o := settings
			o.NEFTuneNoiseAlpha = alpha
			m, a := trainee(t, models.Options{Backend: backend, DType: models.Float32}, 0)
			s := session(t, m, a, o)
			e, err := s.Evaluate(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			st, err := s.MicroStep(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			return st.LossSum, e.LossSum
		}
		plain, eval := stats(0, b)
		noisy, noisyEval := stats(5, b)
		if math.Abs(plain-noisy) < 1e-3 || eval != noisyEval {
			t.Errorf("training loss %v, with noise %v; evaluation %v, with noise %v", plain, noisy, eval, noisyEval)
		}
		if other, _ := stats(5, swapped); math.Abs(other-noisy) > 1e-4 {
			t.Errorf("the rows in another order give %v, want %v", other, noisy)
		}
	})
}
