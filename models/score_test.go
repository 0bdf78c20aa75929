package models

import (
	"context"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
)

func TestLogProbsAreThoseOfTransformersLogits(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		ref := reference.LoadLlama(t, "llama_a")
		m := mustLoad(t, ref.Dir, Options{Backend: backend, DType: Float32})
		logits, length := ref.Tensor(t, "base.logits"), len(ref.InputIDs[0][0])
		vocab := len(logits) / length / len(ref.InputIDs[0])
		var ids [][]int
		var want []float32
		for r, row := range ref.InputIDs[0] {
			n := 0
			for n < length && ref.AttentionMask[0][r][n] == 1 {
				n++
			}
			n = min(n, length-r) // rows of different length, whatever the fixture pads
			ids = append(ids, row[:n])
			for c, id := range row[1:n] {
				at := (r*length + c) * vocab
				want = append(want, float32(-negativeLogLikelihood(logits[at:at+vocab], id)))
			}
		}
		scores, err := m.LogProbs(context.Background(), ids)
		if err != nil {
			t.Fatal(err)
		}
		var got []float32
		for i, row := range scores {
			if len(row) != len(ids[i])-1 {
				t.Errorf("row %d has %d scores, want %d", i, len(row), len(ids[i])-1)
			}
			for _, v := range row {
				got = append(got, float32(v))
			}
		}
		reference.CheckClose(t, "log-probabilities", got, want, 1e-5)
		if _, err := m.LogProbs(context.Background(), [][]int{{1, 2}, {3}}); err == nil || !strings.Contains(err.Error(), "row 1 has 1 tokens") {
			t.Errorf("a row of one token gave %v", err)
		}
	})
}
