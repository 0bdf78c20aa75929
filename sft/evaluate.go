package sft

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Evaluate scores rows (nil: SFTConfig.EvalDataset), prepared as the training rows were, and returns the eval_ metrics.
// eval_loss is averaged as transformers does: over batches, each by its mean per label, weighted by its rows.
func (t *SFTTrainer) Evaluate(ctx context.Context, rows *Dataset) (m Metrics, err error) {
	d := t.eval
	if rows != nil {
		if d, _, err = prepare(rows, t.tok, t.cfg, *t.cfg.EvalPacking, "evaluation"); err != nil {
			return nil, err
		}
	}
	if d == nil {
		return nil, errors.New("sft: Evaluate has no rows: pass some, or set SFTConfig.EvalDataset")
	}
	if r := t.active; r != nil { // from a callback
		return r.score(ctx, r.session, d, r.tokens)
	}
	session, err := t.newSession()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	return t.score(ctx, session, d, t.lastTokens)
}

// score runs the model over a data set.
func (t *SFTTrainer) score(ctx context.Context, session Session, d *dataset, tokens int64) (m Metrics, err error) {
	c, start := t.cfg, time.Now()
	order := make([]int, len(d.rows))
	for i := range order {
		order[i] = i
	}
	var sum, weights float64
	var avg meter
	for numbers := range slices.Chunk(order, c.PerDeviceEvalBatchSize) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		b, err := d.batch(numbers, c.PerDeviceEvalBatchSize, c, t.pad)
		if err != nil {
			return nil, err
		}
		stats, err := session.Evaluate(ctx, b)
		if err != nil {
			return nil, fmt.Errorf("sft: evaluate rows %d to %d: %w", numbers[0]+1, numbers[len(numbers)-1]+1, err)
		}
		if !finite(stats.LossSum) {
			return nil, fmt.Errorf("sft: evaluate rows %d to %d: the loss is %v", numbers[0]+1, numbers[len(numbers)-1]+1, stats.LossSum)
		}
		weight, scored := float64(len(numbers)), max(b.NumLabels, stats.Labels) // more with labels of first tokens
		sum += weight * stats.LossSum / float64(max(1, scored))
		weights += weight
		avg.micro(stats.EntropySum, stats.Correct, scored)
	}
	seconds := time.Since(start).Seconds()
	n := len(d.rows)
	m.add("eval_loss", sum/weights)
	if c.loss() == nil {
		m.add("eval_perplexity", math.Exp(sum/weights))
	}
	m.add("eval_runtime", round(seconds, 4))
	m.add("eval_samples_per_second", round(float64(n)/seconds, 3))
	m.add("eval_steps_per_second", round(float64((n+c.PerDeviceEvalBatchSize-1)/c.PerDeviceEvalBatchSize)/seconds, 3))
	avg.averages(&m, "eval_", tokens)
	return m, c.ownMetrics(ctx, &m)
}
