package training

import (
	"errors"
	"fmt"
)

// CheckBatch refuses a batch whose slices do not fit its shape, or whose labels are no tokens of a vocabulary of that size; 0: it is
// not known. IDs are the model's to check.
func CheckBatch(b *Batch, vocab int) error {
	if b == nil {
		return errors.New("the batch is nil")
	}
	if err := b.checkShape(); err != nil {
		return fmt.Errorf("batch of %d rows of %d: %w", b.Rows, b.Length, err)
	}
	if i := wrongLabel(b.Labels, vocab); i >= 0 {
		return fmt.Errorf("Labels[%d] is %d, at position %d of row %d: %s", i, b.Labels[i], i%b.Length, i/b.Length, wantedLabel(vocab))
	}
	if i := wrongLabel(b.FirstLabels, vocab); i >= 0 {
		return fmt.Errorf("FirstLabels[%d] is %d: %s", i, b.FirstLabels[i], wantedLabel(vocab))
	}
	return b.checkJoined()
}

// checkShape holds the lengths of the slices to Rows and Length.
func (b *Batch) checkShape() error {
	n := b.Rows * b.Length
	switch {
	case b.Rows < 1:
		return errors.New("an empty batch; Rows must be at least 1")
	case b.Length < 1:
		return errors.New("an empty batch; Length must be at least 1")
	case n/b.Length != b.Rows:
		return errors.New("Rows times Length is more than an int holds; make the batch smaller")
	}
	for _, s := range []struct {
		field      string
		have, want int
		optional   bool
	}{
		{"IDs", len(b.IDs), n, false},
		{"Labels", len(b.Labels), n, false},
		{"Positions", len(b.Positions), n, true},
		{"Segments", len(b.Segments), n, true},
		{"FirstLabels", len(b.FirstLabels), b.Rows, true},
	} {
		switch {
		case s.have == s.want || s.optional && s.have == 0:
		case s.optional:
			return fmt.Errorf("%s has %d values, want none or %d", s.field, s.have, s.want)
		default:
			return fmt.Errorf("%s has %d values, want %d", s.field, s.have, s.want)
		}
	}
	return nil
}

// wrongLabel is the index of the first label that is neither IgnoreIndex nor a token, -1 if there is none.
func wrongLabel(labels []int32, vocab int) int {
	for i, l := range labels {
		if l != IgnoreIndex && (l < 0 || vocab > 0 && int(l) >= vocab) {
			return i
		}
	}
	return -1
}

func wantedLabel(vocab int) string {
	if vocab == 0 {
		return fmt.Sprintf("want a token id, or %d for no label", IgnoreIndex)
	}
	return fmt.Sprintf("want a token id of the model's vocabulary of %d, or %d for no label", vocab, IgnoreIndex)
}

// checkJoined holds the rows of the micro-batches to Rows.
func (b *Batch) checkJoined() error {
	if len(b.Joined) == 0 {
		return nil
	}
	left := b.Rows
	for i, n := range b.Joined {
		if n < 1 || n > left {
			return fmt.Errorf("Joined[%d] is %d rows, want at least 1 and at most the %d that are left of Rows %d; leave Joined nil for one micro-batch", i, n, left, b.Rows)
		}
		left -= n
	}
	if left > 0 {
		return fmt.Errorf("Joined %v is %d rows short of Rows %d; name every micro-batch, or leave it nil for one", b.Joined, left, b.Rows)
	}
	return nil
}
