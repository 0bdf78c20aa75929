package sft

import (
	"fmt"
	"strings"
)

// Preview shows what training sees of a batch row, counted from 0: the text of its documents, one after the other, the
// tokens that are trained between ⟦ and ⟧. Look at a few before a long run.
func (t *SFTTrainer) Preview(row int) (string, error) {
	if row < 0 || row >= len(t.train.rows) {
		return "", fmt.Errorf("sft: Preview of row %d: there are %d", row, len(t.train.rows))
	}
	var b strings.Builder
	for _, e := range t.train.rows[row] {
		for at := 0; at < len(e.ids); {
			trained := at > 0 && e.labels[at] != Ignored // nothing predicts the first token
			end := at
			var ids []int
			for ; end < len(e.ids) && trained == (end > 0 && e.labels[end] != Ignored); end++ {
				ids = append(ids, int(e.ids[end]))
			}
			text, err := t.tok.Decode(ids, false)
			if err != nil {
				return "", fmt.Errorf("sft: Preview of row %d: %w", row, err)
			}
			if trained {
				text = "⟦" + text + "⟧"
			}
			b.WriteString(text)
			at = end
		}
		b.WriteByte('\n')
	}
	return b.String(), nil
}
