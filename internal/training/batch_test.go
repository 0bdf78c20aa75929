package training_test

import (
	"math"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/training"
)

func TestWrongBatchesAreErrorsThatNameFieldAndValue(t *testing.T) {
	for _, c := range []struct {
		spoil func(b *training.Batch)
		vocab int
		says  string // "": it is taken
	}{
		{func(b *training.Batch) {}, 10, ""},
		{func(b *training.Batch) { b.Labels[1], b.FirstLabels[1] = training.IgnoreIndex, training.IgnoreIndex }, 10, ""},
		{func(b *training.Batch) { b.Labels[1] = 9 }, 10, ""},
		{func(b *training.Batch) { b.Labels[1] = 1 << 20 }, 0, ""},
		{func(b *training.Batch) { b.Positions, b.Segments, b.FirstLabels, b.Joined = nil, nil, nil, nil }, 10, ""},
		{func(b *training.Batch) { b.Rows = 0 }, 10, "Rows must be at least 1"},
		{func(b *training.Batch) { b.Rows, b.Length = -2, -3 }, 10, "batch of -2 rows of -3: an empty batch; Rows must be at least 1"},
		{func(b *training.Batch) { b.Length = 0 }, 10, "Length must be at least 1"},
		{func(b *training.Batch) { *b = training.Batch{Rows: math.MaxInt/4 + 1, Length: 4} }, 10, "make the batch smaller"},
		{func(b *training.Batch) { b.IDs = b.IDs[:5] }, 10, "IDs has 5 values, want 6"},
		{func(b *training.Batch) { b.Positions = b.Positions[:5] }, 10, "Positions has 5 values, want none or 6"},
		{func(b *training.Batch) { b.FirstLabels = b.FirstLabels[:1] }, 10, "FirstLabels has 1 values, want none or 2"},
		{func(b *training.Batch) { b.Labels[4] = 10 }, 10, "Labels[4] is 10, at position 1 of row 1: want a token id of the model's vocabulary of 10, or -100"},
		{func(b *training.Batch) { b.Labels[4] = -1 }, 0, "Labels[4] is -1, at position 1 of row 1: want a token id, or -100"},
		{func(b *training.Batch) { b.FirstLabels[1] = -7 }, 10, "FirstLabels[1] is -7: want"},
		{func(b *training.Batch) { b.Joined = []int{2, 0} }, 10, "Joined[1] is 0 rows"},
		{func(b *training.Batch) { b.Joined = []int{-1, 3} }, 10, "Joined[0] is -1 rows"},
		{func(b *training.Batch) { b.Joined = []int{1, 2} }, 10, "Joined[1] is 2 rows"},
		{func(b *training.Batch) { b.Joined = []int{1} }, 10, "Joined [1] is 1 rows short of Rows 2"},
	} {
		b := &training.Batch{Rows: 2, Length: 3, IDs: make([]int32, 6), Labels: make([]int32, 6), Positions: make([]int32, 6),
			Segments: make([]int32, 6), FirstLabels: make([]int32, 2), Joined: []int{1, 1}}
		c.spoil(b)
		err := training.CheckBatch(b, c.vocab)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("error %v, want %q", err, c.says)
		}
	}
	if err := training.CheckBatch(nil, 10); err == nil {
		t.Error("no batch is taken")
	}
}
