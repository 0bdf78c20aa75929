package measure

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/internal/training"
)

// Step is a whole training step, without a trainer around it: forward and backward over each of the batches, then the
// optimizer. Like package sft it lets the device take the next batch, in the end next, meanwhile. It returns the mean loss of
// a label.
func Step(ctx context.Context, s training.Session, batches []*training.Batch, next *training.Batch) (loss float64, err error) {
	labels := 0
	for i, b := range batches {
		stats, err := s.MicroStep(ctx, b)
		if err != nil {
			return 0, err
		}
		loss, labels = loss+stats.LossSum, labels+stats.Labels
		following := next
		if i+1 < len(batches) {
			following = batches[i+1]
		}
		if p, ok := s.(training.Prefetcher); ok {
			if err := p.Prefetch(following); err != nil {
				return 0, err
			}
		}
	}
	items := float64(max(1, labels))
	_, err = s.Apply(ctx, training.ApplyOptions{LearningRate: 2e-4, NumItems: items, MaxGradNorm: 1})
	return loss / items, err
}

// Median is that of times, in milliseconds.
func Median(times []time.Duration) float64 {
	if len(times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(times))
	return float64(sorted[len(sorted)/2].Microseconds()) / 1e3
}

// Idle is how a device spent the time from the first to the last execution of some steps.
type Idle struct {
	Busy, Idle time.Duration
	// Between is the part of Idle between steps: behind the optimizer's programs, and before the first program of the next step.
	Between time.Duration
	Steps   int // that ended in an optimizer's program and were followed by another
}

// Share is t's share of all the time.
func (i Idle) Share(t time.Duration) float64 {
	if i.Busy+i.Idle == 0 {
		return 0
	}
	return float64(t) / float64(i.Busy+i.Idle)
}

// IdleBetween tells where the device was idle in executions of steps that end in programs whose names begin with optimizer.
func IdleBetween(all []seam.Execution, optimizer string) (i Idle) {
	i.Busy, i.Idle = busyAndIdle(all)
	var until, pauses time.Duration
	behind := false // an optimizer's program, and nothing but copies since then
	for n, e := range all {
		if n == 0 {
			until = e.Start
		}
		if e.Start > until && behind {
			pauses += e.Start - until
		}
		switch {
		case strings.HasPrefix(e.Program, optimizer):
			behind, pauses = true, 0 // those among the optimizer's own programs are within the step
		case e.Program != "" && behind:
			i.Between += pauses
			i.Steps++
			behind, pauses = false, 0
		}
		until = max(until, e.Start+e.Duration)
	}
	return i
}
