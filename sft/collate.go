package sft

import (
	"fmt"
	"runtime"

	"github.com/loris-ml/loris/internal/training"
)

// Example is one document of a batch row: its tokens, and those that are trained; others are Ignored.
type Example struct{ IDs, Labels []int32 }

// Collation says what a batch is to be made of.
type Collation struct {
	Rows     [][]Example // of each row its documents, one behind the other; one document without packing
	Numbers  []int       // of the rows in the prepared data set, from 0
	Size     int         // rows that the batch shall have, so that no new shape is compiled; at least len(Rows)
	Length   int         // tokens that its rows shall have; no row is longer
	PadToken int32
}

// Collator lays out rows as a batch (the data_collator of transformers). An error ends the run.
type Collator func(c Collation) (*Batch, error)

// CollateRows is the default Collator:
//
//	IDs          the documents of a row one after the other, then padding
//	Labels       at t the label of t+1 if that is in the same document and trained, else Ignored
//	FirstLabels  the label of the row's first token, which counts behind trained embeddings of virtual tokens only
//	Positions    restart at 0 with each document; 0 in padding
//	Segments     1, 2, … per document; 0 in padding
//	RowSeeds     the row's number, so that random streams follow rows and not their place
//
// Rows beyond the given ones are all padding: a short last batch keeps the shape that is compiled already.
func CollateRows(c Collation) (*Batch, error) {
	b := &Batch{Rows: c.Size, Length: c.Length, RowSeeds: make([]uint64, c.Size)}
	n := c.Size * c.Length
	b.IDs, b.Labels = filled(n, c.PadToken), filled(n, Ignored)
	b.Positions, b.Segments, b.FirstLabels = filled(n, 0), filled(n, 0), filled(c.Size, Ignored)
	for i, row := range c.Rows {
		b.RowSeeds[i] = uint64(c.Numbers[i])
		if len(row) > 0 && len(row[0].Labels) > 0 {
			b.FirstLabels[i] = row[0].Labels[0]
		}
		at := i * c.Length
		for segment, e := range row {
			copy(b.IDs[at:], e.IDs)
			for t := range e.IDs {
				b.Positions[at+t], b.Segments[at+t] = int32(t), int32(segment+1)
				if t+1 < len(e.IDs) && e.Labels[t+1] != Ignored {
					b.Labels[at+t] = e.Labels[t+1]
					b.NumLabels++
				}
			}
			at += len(e.IDs)
			b.NumTokens += len(e.IDs)
		}
	}
	return b, nil
}

// layout lays out rows of the data set, by number, as [size, length].
func (d *dataset) layout(numbers []int, size, length int, pad int32, collate Collator) (*Batch, error) {
	c := Collation{Numbers: numbers, Size: size, Length: length, PadToken: pad}
	for _, number := range numbers {
		var row []Example
		for _, e := range d.rows[number] {
			row = append(row, Example{e.ids, e.labels})
		}
		c.Rows = append(c.Rows, row)
	}
	defer runtime.KeepAlive(d) // which may hold the file that the tokens are in
	if collate == nil {
		return CollateRows(c)
	}
	b, err := collate(c)
	if err == nil {
		err = checkCollated(b)
	}
	if err != nil {
		return nil, fmt.Errorf("sft: SFTConfig.Collate, rows %v: %w", numbers, err)
	}
	return b, nil
}

// checkCollated refuses a batch that does not fit together, or whose counts are not those of its labels.
func checkCollated(b *Batch) error {
	if err := training.CheckBatch(b, 0); err != nil {
		return err
	}
	if labels := training.CountLabels(b.Labels); labels != b.NumLabels {
		return fmt.Errorf("the batch's NumLabels is %d, its Labels have %d", b.NumLabels, labels)
	}
	return nil
}
