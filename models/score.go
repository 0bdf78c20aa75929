package models

import (
	"context"
	"errors"
	"fmt"
	"math"
)

// LogProbs returns the natural logarithm of the probability of every token given those before it in its row:
// out[i][j] is that of ids[i][j+1], so a row of n tokens has n-1. Rows may differ in length. The logits of all rows,
// [rows, longest row, vocab] float32, lie in host memory meanwhile: give few rows at a time.
func (m *CausalLM) LogProbs(ctx context.Context, ids [][]int) ([][]float64, error) {
	return m.LogProbsWith(ctx, nil, ids)
}

// LogProbsWith is LogProbs with adapters; package peft calls it.
func (m *CausalLM) LogProbsWith(ctx context.Context, adapters Adapters, ids [][]int) ([][]float64, error) {
	if len(ids) == 0 {
		return nil, errors.New("score: ids are empty")
	}
	longest := 0
	for i, row := range ids {
		if len(row) < 2 {
			return nil, fmt.Errorf("score: row %d has %d tokens; a token is scored by those before it, so give at least 2", i, len(row))
		}
		longest = max(longest, len(row))
	}
	padded, mask := make([][]int, len(ids)), make([][]int, len(ids))
	for i, row := range ids { // on the right, where no token sees it
		padded[i], mask[i] = make([]int, longest), make([]int, longest)
		for j, id := range row {
			padded[i][j], mask[i][j] = id, 1
		}
	}
	logits, err := m.LogitsWith(ctx, adapters, padded, mask)
	if err != nil {
		return nil, err
	}
	out := make([][]float64, len(ids))
	for i, row := range ids {
		for j, id := range row[1:] {
			out[i] = append(out[i], logProbability(logits[i][j], id))
		}
	}
	return out, nil
}

// logProbability is the log-softmax of logits [vocab] at id.
func logProbability(logits []float32, id int) float64 {
	top := float64(logits[0])
	for _, v := range logits {
		top = max(top, float64(v))
	}
	sum := 0.0
	for _, v := range logits {
		sum += math.Exp(float64(v) - top)
	}
	return float64(logits[id]) - top - math.Log(sum)
}
