package models

import (
	"context"
	"path/filepath"
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

func TestScoresAndPerplexitiesAreThoseOfTransformers(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		for _, c := range reference.LoadScoring(t) {
			if c.Adapter != "" {
				continue // package peft has it
			}
			t.Run(filepath.Base(c.Model), func(t *testing.T) {
				ctx, m := context.Background(), mustLoad(t, c.Model, Options{Backend: backend, DType: Float32})
				c.Check(t, func(rows [][]int) ([][]float64, error) { return m.LogProbs(ctx, rows) }, func(ids []int, maxLength, stride int) (float64, error) {
					return m.Perplexity(ctx, ids, PerplexityConfig{MaxLength: maxLength, Stride: stride})
				})
			})
		}
	})
}

func TestScoringRefusesWhatItCannotScore(t *testing.T) {
	ctx, m := context.Background(), mustLoad(t, "testdata/families/qwen3_yarn", Options{})
	for want, try := range map[string]struct {
		ids []int
		c   PerplexityConfig
	}{
		"perplexity: 1 tokens":                 {ids: []int{4}},
		"Stride is 9, want a number from 1 to": {ids: []int{4, 5, 6}, c: PerplexityConfig{MaxLength: 8, Stride: 9}},
		"MaxLength is 1, want at least 2":      {ids: []int{4, 5, 6}, c: PerplexityConfig{MaxLength: 1}},
		"token id 67 at position 2 of row 0":   {ids: []int{4, 5, 67}},
	} {
		if _, err := m.Perplexity(ctx, try.ids, try.c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, %+v: error %v, want %s", try.ids, try.c, err, want)
		}
	}
}
