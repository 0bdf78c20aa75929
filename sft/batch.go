package sft

import (
	"math/bits"
	"runtime"

	"github.com/loris-ml/loris/internal/training"
)

// Batch is Rows sequences of Length tokens; see [training.Batch].
type Batch = training.Batch

// layout lays out rows of the data set, by number, as [rows, length] with next-token labels:
//
//	IDs        the documents of a row one after the other, then padding
//	Labels     at t the label of t+1 if that is in the same document and trained, else Ignored
//	Positions  restart at 0 with each document; 0 in padding
//	Segments   1, 2, … per document; 0 in padding
//	RowSeeds   the row's number, so that random streams follow rows and not their place
//
// Rows beyond the given ones are all padding: a short last batch keeps the shape that is compiled already.
func (d *dataset) layout(numbers []int, rows, length int, pad int32) *Batch {
	b := &Batch{Rows: rows, Length: length, RowSeeds: make([]uint64, rows)}
	b.IDs, b.Labels = filled(rows*length, pad), filled(rows*length, Ignored)
	b.Positions, b.Segments = filled(rows*length, 0), filled(rows*length, 0)
	for i, number := range numbers {
		b.RowSeeds[i] = uint64(number)
		at := i * length
		for segment, e := range d.rows[number] {
			copy(b.IDs[at:], e.ids)
			for t := range e.ids {
				b.Positions[at+t], b.Segments[at+t] = int32(t), int32(segment+1)
				if t+1 < len(e.ids) && e.labels[t+1] != Ignored {
					b.Labels[at+t] = e.labels[t+1]
					b.NumLabels++
				}
			}
			at += len(e.ids)
			b.NumTokens += len(e.ids)
		}
	}
	runtime.KeepAlive(d) // which may hold the file that the tokens are in
	return b
}

func filled(n int, value int32) []int32 {
	s := make([]int32, n)
	if value != 0 {
		for i := range s {
			s[i] = value
		}
	}
	return s
}

// batch is the batch of the given rows for batches of size rows.
func (d *dataset) batch(numbers []int, size int, c SFTConfig, pad int32) *Batch {
	return d.layout(numbers, min(size, len(d.rows)), d.batchLength(numbers, c), pad)
}

// batchLength is the length of a batch of the given rows: packed ones have one length, others the longest row's, rounded
// up so that few shapes occur.
func (d *dataset) batchLength(numbers []int, c SFTConfig) int {
	longest := d.length
	if !d.packed {
		longest = 0
		for _, n := range numbers {
			longest = max(longest, d.rows[n].length())
		}
	}
	if c.PadToMultipleOf > 0 {
		return roundUp(longest, c.PadToMultipleOf)
	}
	length := roundUp(longest, bucket(longest))
	if c.MaxLength != NoMaxLength {
		length = max(longest, min(length, c.MaxLength))
	}
	return length
}

// bucket is the multiple to which a length is rounded up where PadToMultipleOf is not set: 64 tokens, beyond 1024 an eighth
// of the power of two below. So at most an eighth is padding, and a doubling of the length adds eight shapes.
func bucket(length int) int {
	return max(64, 1<<max(0, bits.Len(uint(length))-4))
}

func roundUp(n, multiple int) int { return (n + multiple - 1) / multiple * multiple }
