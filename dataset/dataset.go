package dataset

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
)

// Dataset is a sequence of rows that can be gone through any number of times. It does not change, and may be used by
// several goroutines if its source may. The rows that it hands out belong to it: change a copy.
type Dataset struct {
	rows  func() ([]Row, error)  // of one in memory; worked out once
	seq   iter.Seq2[Row, error]  // of a stream
	print func() (string, error) // its fingerprint; nil: that of its rows
}

// FromRows is a data set of rows in memory.
func FromRows(rows []Row) *Dataset {
	return inMemory(func() ([]Row, error) { return rows, nil })
}

// FromSeq is a stream of the rows of a sequence, which is run anew by every pass over the data set and must then yield the
// same rows. An error that it yields ends the pass and is reported by it.
func FromSeq(seq iter.Seq2[Row, error]) *Dataset { return &Dataset{seq: seq} }

// inMemory is a data set whose rows are worked out when they are first asked for.
func inMemory(rows func() ([]Row, error)) *Dataset {
	return &Dataset{rows: sync.OnceValues(rows)}
}

// Streaming reports whether rows are read anew by every pass, and not held in memory.
func (d *Dataset) Streaming() bool { return d.rows == nil }

// All goes through the rows. After an error, which comes with a nil row, there are no more.
func (d *Dataset) All() iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		if d.Streaming() {
			for row, err := range d.seq {
				if err != nil {
					yield(nil, err)
					return
				}
				if !yield(row, nil) {
					return
				}
			}
			return
		}
		rows, err := d.rows()
		if err != nil {
			yield(nil, err)
			return
		}
		for _, row := range rows {
			if !yield(row, nil) {
				return
			}
		}
	}
}

// Rows returns all rows: those of a stream are read into memory.
func (d *Dataset) Rows() ([]Row, error) {
	if !d.Streaming() {
		rows, err := d.rows()
		return slices.Clip(rows), err
	}
	var rows []Row
	for row, err := range d.All() {
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// Collect is the data set with its rows in memory.
func (d *Dataset) Collect() (*Dataset, error) {
	rows, err := d.Rows()
	if err != nil {
		return nil, err
	}
	return FromRows(rows), nil
}

// Len returns the number of rows. A stream is gone through to count them.
func (d *Dataset) Len() (n int, err error) {
	if !d.Streaming() {
		rows, err := d.rows()
		return len(rows), err
	}
	for _, err := range d.All() {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

// First returns the first row, or an error if there is none.
func (d *Dataset) First() (Row, error) {
	for row, err := range d.All() {
		return row, err
	}
	return nil, errors.New("dataset: there are no rows")
}

// derived is a data set made by transforming another. It streams if that does; transform is then run by every pass, else
// once.
func (d *Dataset) derived(transform func(iter.Seq2[Row, error]) iter.Seq2[Row, error]) *Dataset {
	if d.Streaming() {
		return FromSeq(transform(d.All()))
	}
	return inMemory(FromSeq(transform(d.All())).Rows)
}

// rowError says which row of a pass an error is about, counted from 1.
func rowError(what string, index int, err error) error {
	return fmt.Errorf("dataset: %s: row %d: %w", what, index+1, err)
}
