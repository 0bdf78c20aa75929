package sft

import (
	"math/bits"

	"github.com/loris-ml/loris/internal/training"
)

// Batch is Rows sequences of Length tokens; see [training.Batch].
type Batch = training.Batch

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
func (d *dataset) batch(numbers []int, size int, c SFTConfig, pad int32) (*Batch, error) {
	return d.layout(numbers, min(size, len(d.rows)), d.batchLength(numbers, c), pad, c.Collate)
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
