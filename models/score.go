package models

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
)

// Scorer scores given tokens: a [CausalLM], or a PeftModel of package peft.
type Scorer interface {
	LogProbs(ctx context.Context, ids [][]int) ([][]float64, error)
	Perplexity(ctx context.Context, ids []int, c PerplexityConfig) (float64, error)
}

// LogProbs returns the natural logarithm of the probability of every token given those before it in its row:
// out[i][j] is that of ids[i][j+1], so a row of n tokens has n-1. Rows may differ in length; they run together, so give
// as many as fit the device. RoPE of the types dynamic and longrope has the frequencies of the longest, as in
// transformers.
func (m *CausalLM) LogProbs(ctx context.Context, ids [][]int) ([][]float64, error) {
	return m.LogProbsWith(ctx, nil, ids)
}

// LogProbsWith is LogProbs with adapters; package peft calls it.
func (m *CausalLM) LogProbsWith(ctx context.Context, adapters Adapters, ids [][]int) ([][]float64, error) {
	if len(ids) == 0 {
		return nil, errors.New("score: ids are empty")
	}
	length := 0
	for i, row := range ids {
		if len(row) < 2 {
			return nil, fmt.Errorf("score: row %d has %d tokens; a token is scored by those before it, so give at least 2", i, len(row))
		}
		length = max(length, len(row))
	}
	const step = 32 // so that rows of about a length share their programs
	length = (length + step - 1) / step * step
	input, segments, targets := make([]int32, len(ids)*length), make([]int32, len(ids)*length), make([]int32, len(ids)*length)
	for i, row := range ids { // padding is on the right, where no token sees it
		for j, id := range row {
			input[i*length+j], segments[i*length+j] = int32(id), 1
			if j > 0 {
				targets[i*length+j-1] = int32(id)
			}
		}
	}
	values, err := m.run.LogProbs(ctx, adapters, input, segments, targets, len(ids), length)
	if err != nil {
		return nil, fmt.Errorf("score: %w", err)
	}
	out := make([][]float64, len(ids))
	for i, row := range ids {
		for _, v := range values[i*length:][:len(row)-1] {
			out[i] = append(out[i], float64(v))
		}
	}
	return out, nil
}

// PerplexityConfig says how a text longer than a model's context is cut into windows.
type PerplexityConfig struct {
	MaxLength int // tokens of a window; 0: the config's max_position_embeddings
	Stride    int // tokens from one window to the next, at most MaxLength; 0: 512, or MaxLength if that is less
}

// Perplexity returns the exponential of the mean negative log-likelihood of ids, in windows that overlap, as the recipe in
// transformers' documentation computes it ("Perplexity of fixed-length models"): a window counts the tokens that the one
// before did not see, with as many others before them as it has room for. Its mean has the weight of these tokens less one.
func (m *CausalLM) Perplexity(ctx context.Context, ids []int, c PerplexityConfig) (float64, error) {
	return m.PerplexityWith(ctx, nil, ids, c)
}

// PerplexityWith is Perplexity with adapters; package peft calls it.
func (m *CausalLM) PerplexityWith(ctx context.Context, adapters Adapters, ids []int, c PerplexityConfig) (float64, error) {
	c.MaxLength = cmp.Or(c.MaxLength, m.arch.dims().context)
	c.Stride = cmp.Or(c.Stride, min(512, c.MaxLength))
	switch {
	case c.MaxLength < 2:
		return 0, fmt.Errorf("PerplexityConfig.MaxLength is %d, want at least 2; without it, config.json's max_position_embeddings is taken", c.MaxLength)
	case c.Stride < 1 || c.Stride > c.MaxLength:
		return 0, fmt.Errorf("PerplexityConfig.Stride is %d, want a number from 1 to MaxLength, which is %d", c.Stride, c.MaxLength)
	case len(ids) < 2:
		return 0, fmt.Errorf("perplexity: %d tokens; give at least 2", len(ids))
	}
	sum, count, seen := 0.0, 0, 0
	for begin := 0; seen < len(ids); begin += c.Stride {
		end := min(begin+c.MaxLength, len(ids))
		own := end - seen // tokens that no window had
		seen = end
		if own == 1 {
			continue // of no weight
		}
		logProbs, err := m.LogProbsWith(ctx, adapters, [][]int{ids[begin:end]})
		if err != nil {
			return 0, err
		}
		scored := logProbs[0][max(0, len(logProbs[0])-own):]
		mean := 0.0
		for _, v := range scored {
			mean -= v / float64(len(scored))
		}
		sum, count = sum+mean*float64(own-1), count+own-1
	}
	return math.Exp(sum / float64(count)), nil
}
