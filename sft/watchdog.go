package sft

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// DivergedError ends a run whose loss or gradient is not finite, or whose loss SFTConfig.LossWatchdogThreshold calls too
// high. The last checkpoint is from before.
type DivergedError struct {
	Step     int     // that went wrong, counted from 1
	Loss     float64 // per label, of the batch or step
	GradNorm float64 // 0 where the loss tells it already
	Rows     []RowLoss
	remedy   string
}

// RowLoss is a row of the data set as it was given to NewSFTTrainer, counted from 1, and the loss per label of the batch
// row that holds it; several rows of a batch row have one loss.
type RowLoss struct {
	Row  int
	Loss float64
}

// shownRows is how many rows an error names.
const shownRows = 8

func (e *DivergedError) Error() string {
	what := fmt.Sprintf("the loss is %v", e.Loss)
	if e.GradNorm != 0 {
		what = fmt.Sprintf("the gradient norm is %v", e.GradNorm)
	}
	var rows []string
	for _, r := range e.Rows[:min(len(e.Rows), shownRows)] {
		rows = append(rows, fmt.Sprintf("%d (loss %.4g)", r.Row, r.Loss))
	}
	if more := len(e.Rows) - shownRows; more > 0 {
		rows = append(rows, fmt.Sprintf("%d more", more))
	}
	return fmt.Sprintf("sft: step %d: %s; rows of the data set, worst first: %s; %s", e.Step, what, strings.Join(rows, ", "), e.remedy)
}

// microBatch is a batch and the rows of the data set that it was made of, by number.
type microBatch struct {
	*Batch
	numbers []int
}

// watch stops the run when a step's loss has been too high for too long.
func (r *run) watch(ctx context.Context, loss float64, batches []microBatch) error {
	c := r.cfg
	if c.LossWatchdogThreshold == 0 || loss <= c.LossWatchdogThreshold {
		r.aboveLimit = 0
		return nil
	}
	r.aboveLimit++
	if r.aboveLimit < c.LossWatchdogPatience {
		return nil
	}
	e := &DivergedError{Step: r.state.GlobalStep + 1, Loss: loss, remedy: fmt.Sprintf(
		"it has been above SFTConfig.LossWatchdogThreshold %v for %d steps: lower LearningRate, add warmup steps, or look at these rows", c.LossWatchdogThreshold, r.aboveLimit)}
	return r.blame(ctx, e, batches)
}

// blame completes an error with the losses of the rows in the batches, worst first. Each is scored by itself.
func (r *run) blame(ctx context.Context, e *DivergedError, batches []microBatch) error {
	var errs []error
	for _, b := range batches {
		for _, number := range b.numbers {
			one, err := r.train.layout([]int{number}, b.Rows, b.Length, r.pad, r.cfg.Collate)
			var stats Stats
			if err == nil {
				stats, err = r.session.Evaluate(ctx, one)
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			loss := stats.LossSum / float64(max(1, one.NumLabels))
			for _, row := range r.train.sources(number) {
				e.Rows = append(e.Rows, RowLoss{row, loss})
			}
		}
	}
	slices.SortStableFunc(e.Rows, func(a, b RowLoss) int {
		if finite(a.Loss) != finite(b.Loss) {
			return cmp.Compare(rank(a.Loss), rank(b.Loss))
		}
		return cmp.Compare(b.Loss, a.Loss)
	})
	return errors.Join(append([]error{e}, errs...)...)
}

// rank puts what is not finite first.
func rank(loss float64) int {
	if finite(loss) {
		return 1
	}
	return 0
}

// sources are the rows, as they were given and counted from 1, that a row of the data set is made of. Of rows joined across
// their boundaries (Wrapped) the data set knows none; they get its own number.
func (d *dataset) sources(number int) (rows []int) {
	for _, e := range d.rows[number] {
		if e.row > 0 && !slices.Contains(rows, e.row) {
			rows = append(rows, e.row)
		}
	}
	if rows == nil {
		return []int{number + 1}
	}
	return rows
}
