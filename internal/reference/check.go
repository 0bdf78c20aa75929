package reference

import (
	"math"
	"os"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/training"
)

// Session returns the settings for a training session.
func (o Optimizer) Session() training.SessionOptions {
	return training.SessionOptions{AdamBeta1: o.Betas[0], AdamBeta2: o.Betas[1], AdamEpsilon: o.Eps, WeightDecay: o.WeightDecay}
}

// Batch returns batch i, counted around, with labels at the positions that predict them and padding as segment 0.
func (l *Llama) Batch(i int) *training.Batch {
	i %= len(l.InputIDs)
	b := &training.Batch{Rows: len(l.InputIDs[i]), Length: len(l.InputIDs[i][0])}
	for r, row := range l.InputIDs[i] {
		for c, id := range row {
			label := -100
			if c+1 < len(row) {
				label = l.Labels[i][r][c+1]
			}
			if label != -100 {
				b.NumLabels++
			}
			b.IDs = append(b.IDs, int32(id))
			b.Labels = append(b.Labels, int32(label))
			b.Segments = append(b.Segments, int32(l.AttentionMask[i][r][c]))
			b.NumTokens += l.AttentionMask[i][r][c]
		}
	}
	return b
}

// CheckLogits fails the test when logits [2][seq][vocab] of batch 0 differ from the tensor key by more than the
// relative error limit, where the mask is 1.
func (l *Llama) CheckLogits(t testing.TB, key string, logits [][][]float32, limit float64) {
	t.Helper()
	got, want := l.Visible(0, logits, l.Tensor(t, key))
	CheckClose(t, key, got, want, limit)
}

// CheckClose fails the test when got and want differ by more than the relative error limit.
func CheckClose(t testing.TB, what string, got, want []float32, limit float64) {
	t.Helper()
	if e := RelativeError(got, want); !(e <= limit) {
		t.Errorf("%s: relative error %.3g, want at most %.3g", what, e, limit)
	}
}

// CheckCurve fails the test where two curves differ by more than the relative error limit.
func CheckCurve(t testing.TB, what string, got, want []float64, limit float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range want {
		if d := math.Abs(got[i]-want[i]) / math.Abs(want[i]); !(d <= limit) {
			t.Errorf("%s: step %d is %v, want %v (%.3g off)", what, i, got[i], want[i], d)
		}
	}
}

// OnBackends runs the test on the embedded backend and on those that LORIS_TEST_BACKENDS lists, separated by spaces.
func OnBackends(t *testing.T, test func(t *testing.T, backend string)) {
	t.Run("go", func(t *testing.T) { test(t, "") })
	for _, b := range strings.Fields(os.Getenv("LORIS_TEST_BACKENDS")) {
		t.Run(b, func(t *testing.T) { test(t, b) })
	}
}
