package peft

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/models"
)

func TestLogProbsHaveTheAdaptersApplied(t *testing.T) {
	ref := reference.LoadLlama(t, "llama_a")
	p := tuned(t, ref, models.Options{DType: models.Float32})
	row := ref.InputIDs[0][0][:5]
	got, err := p.LogProbs(context.Background(), [][]int{row})
	if err != nil {
		t.Fatal(err)
	}
	logits := ref.Tensor(t, "tuned.logits")
	vocab := len(logits) / len(ref.InputIDs[0]) / len(ref.InputIDs[0][0])
	for i, id := range row[1:] {
		sum := 0.0
		for _, v := range logits[i*vocab : (i+1)*vocab] {
			sum += math.Exp(float64(v))
		}
		want := float64(logits[i*vocab+id]) - math.Log(sum)
		if math.Abs(got[0][i]-want) > 1e-4*math.Abs(want) {
			t.Errorf("token %d scores %v, by transformers' logits %v", i+1, got[0][i], want)
		}
	}
}

func TestScoresAndPerplexitiesAreThoseOfPEFT(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		for _, c := range reference.LoadScoring(t) {
			if c.Adapter != "" {
				ctx, m := context.Background(), tuned(t, reference.LoadLlama(t, filepath.Base(c.Model)), models.Options{Backend: backend, DType: models.Float32})
				c.Check(t, func(rows [][]int) ([][]float64, error) { return m.LogProbs(ctx, rows) }, func(ids []int, maxLength, stride int) (float64, error) {
					return m.Perplexity(ctx, ids, models.PerplexityConfig{MaxLength: maxLength, Stride: stride})
				})
			}
		}
	})
}
