package sft

import (
	"fmt"
	"iter"
	"runtime"
	"sync"
)

// blockRows is how many rows a goroutine tokenizes at a time.
const blockRows = 64

// block are rows that follow each other, on their way to examples.
type block struct {
	first    int // number of its first row, from 0
	rows     []Row
	examples []example
	err      error         // of the row that follows examples
	done     chan struct{} // closed when examples and err are there
}

// all tokenizes the rows on all cores, in their order. Few rows are in memory at a time. The error names the first row that
// cannot be tokenized; nothing follows it.
func (t *rowTokenizer) all(data *Dataset) iter.Seq2[example, error] {
	return func(yield func(example, error) bool) {
		workers := runtime.GOMAXPROCS(0)
		stop := make(chan struct{})
		work, queue := make(chan *block), make(chan *block, 2*workers) // the same blocks: in any order, and in theirs
		var running sync.WaitGroup
		defer running.Wait()
		defer close(stop)
		running.Go(func() { t.read(data, work, queue, stop) })
		for range workers {
			running.Go(func() {
				for b := range work {
					b.tokenize(t)
				}
			})
		}
		for b := range queue {
			<-b.done
			for _, e := range b.examples {
				if !yield(e, nil) {
					return
				}
			}
			if b.err != nil {
				yield(example{}, b.err)
				return
			}
		}
	}
}

// read cuts the rows into blocks until stop is closed.
func (t *rowTokenizer) read(data *Dataset, work, queue chan<- *block, stop <-chan struct{}) {
	defer close(queue)
	defer close(work)
	send := func(b *block) bool {
		select {
		case queue <- b:
		case <-stop:
			return false
		}
		select {
		case work <- b:
			return true
		case <-stop:
			close(b.done)
			return false
		}
	}
	b := &block{done: make(chan struct{})}
	for row, err := range data.All() {
		if err != nil {
			b.err = fmt.Errorf("sft: behind row %d: %w", b.first+len(b.rows), err)
			break
		}
		if b.rows = append(b.rows, row); len(b.rows) == blockRows {
			if !send(b) {
				return
			}
			b = &block{first: b.first + blockRows, done: make(chan struct{})}
		}
	}
	if len(b.rows) > 0 || b.err != nil {
		send(b)
	}
}

func (b *block) tokenize(t *rowTokenizer) {
	defer close(b.done)
	b.examples = make([]example, 0, len(b.rows))
	for i, row := range b.rows {
		e, err := t.tokenize(row)
		if err != nil {
			b.err = fmt.Errorf("sft: row %d: %w", b.first+i+1, err)
			break
		}
		e.row = b.first + i + 1
		b.examples = append(b.examples, e)
	}
	b.rows = nil
}
