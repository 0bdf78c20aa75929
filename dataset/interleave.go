package dataset

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/loris-ml/loris/internal/pyrandom"
)

// StoppingStrategy says when Interleave ends.
type StoppingStrategy string

// Values of InterleaveOptions.StoppingStrategy.
const (
	FirstExhausted                 StoppingStrategy = "first_exhausted"                   // with the first data set that ends
	AllExhausted                   StoppingStrategy = "all_exhausted"                     // when all have ended once; others start again
	AllExhaustedWithoutReplacement StoppingStrategy = "all_exhausted_without_replacement" // when all have ended; every row comes once
)

// InterleaveOptions says how data sets are mixed.
type InterleaveOptions struct {
	// Probabilities, one for each data set, are those with which the next row is drawn from it; their sum is 1. nil: the data
	// sets take turns.
	Probabilities    []float64
	Seed             int64            // of the draws
	StoppingStrategy StoppingStrategy // "" is FirstExhausted
}

// Interleave mixes data sets row by row, as datasets' interleave_datasets does: the same rows in the same order. It streams
// if one of them does. As there, taking turns in memory ends with a whole round, of streams with the row that ends it.
func Interleave(sets []*Dataset, o InterleaveOptions) (*Dataset, error) {
	if o.StoppingStrategy == "" {
		o.StoppingStrategy = FirstExhausted
	}
	if err := o.validate(len(sets)); err != nil {
		return nil, err
	}
	wholeRounds := o.Probabilities == nil && o.StoppingStrategy != AllExhaustedWithoutReplacement && !slices.ContainsFunc(sets, (*Dataset).Streaming)
	mixed := combined(sets, func(yield func(Row, error) bool) {
		m := &mixture{sets: sets, strategy: o.StoppingStrategy, wholeRounds: wholeRounds}
		if err := m.run(o.sources(len(sets)), yield); err != nil {
			yield(nil, err)
		}
	})
	mixed.print = printOf(sets, "interleave", o)
	return mixed, nil
}

func (o InterleaveOptions) validate(n int) error {
	if n == 0 {
		return errors.New("dataset: Interleave has no data sets")
	}
	switch o.StoppingStrategy {
	case FirstExhausted, AllExhausted, AllExhaustedWithoutReplacement:
	default:
		return fmt.Errorf("dataset: InterleaveOptions.StoppingStrategy is %q; want %s, %s or %s", o.StoppingStrategy, FirstExhausted, AllExhausted, AllExhaustedWithoutReplacement)
	}
	if o.Probabilities == nil {
		return nil
	}
	if len(o.Probabilities) != n {
		return fmt.Errorf("dataset: InterleaveOptions.Probabilities has %d values for %d data sets; want one for each", len(o.Probabilities), n)
	}
	sum := 0.0
	for i, p := range o.Probabilities {
		if !(p >= 0 && p <= 1) || p == 0 && o.StoppingStrategy != FirstExhausted {
			return fmt.Errorf("dataset: InterleaveOptions.Probabilities[%d] is %v; want a probability, above 0 where data set %d is to end", i, p, i)
		}
		sum += p
	}
	if math.Abs(sum-1) > 1e-8 { // as Generator.choice requires
		return fmt.Errorf("dataset: InterleaveOptions.Probabilities sum to %v; want 1", sum)
	}
	if o.Seed < 0 {
		return negativeSeed(o.Seed)
	}
	return nil
}

// sources yields numbers of data sets without end.
func (o InterleaveOptions) sources(n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		const block = 1000 // how many datasets draws at once; no number depends on it
		random := pyrandom.NewNumPy(o.Seed)
		for {
			numbers := make([]int, n)
			for i := range numbers {
				numbers[i] = i
			}
			if o.Probabilities != nil {
				numbers = random.Choice(block, o.Probabilities)
			}
			for _, i := range numbers {
				if !yield(i) {
					return
				}
			}
		}
	}
}

// mixture is one pass over data sets that are mixed. One row of each is read ahead, to know whether it has ended.
type mixture struct {
	sets        []*Dataset
	strategy    StoppingStrategy
	wholeRounds bool
	open        []*cursor
	ended       []bool // once at least
}

// cursor goes through a data set.
type cursor struct {
	next  func() (Row, error, bool)
	stop  func()
	ahead Row
}

func (m *mixture) run(sources iter.Seq[int], yield func(Row, error) bool) error {
	m.open, m.ended = make([]*cursor, len(m.sets)), make([]bool, len(m.sets))
	defer func() {
		for _, c := range m.open {
			if c != nil {
				c.stop()
			}
		}
	}()
	turn := 0
	for i := range sources {
		roundStarts := turn%len(m.sets) == 0
		turn++
		if (!m.wholeRounds || roundStarts) && m.done() {
			return nil
		}
		if m.ended[i] && m.strategy == AllExhaustedWithoutReplacement {
			continue
		}
		row, err := m.take(i)
		if err != nil {
			return err
		}
		if !yield(row, nil) {
			return nil
		}
	}
	return nil
}

func (m *mixture) done() bool {
	if m.strategy == FirstExhausted {
		return slices.Contains(m.ended, true)
	}
	return !slices.Contains(m.ended, false)
}

// take returns the next row of a data set, and starts it again where it has ended.
func (m *mixture) take(i int) (Row, error) {
	c := m.open[i]
	if c == nil {
		c = &cursor{}
		c.next, c.stop = iter.Pull2(m.sets[i].All())
		m.open[i] = c
		more, err := c.advance()
		if err != nil {
			return nil, err
		}
		if !more {
			return nil, fmt.Errorf("dataset: Interleave: data set %d has no rows", i)
		}
	}
	row := c.ahead
	more, err := c.advance()
	if err != nil {
		return nil, err
	}
	if !more {
		c.stop()
		m.open[i], m.ended[i] = nil, true
	}
	return row, nil
}

func (c *cursor) advance() (more bool, err error) {
	c.ahead, err, more = c.next()
	return more, err
}
