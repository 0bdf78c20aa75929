package sft

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
)

// Preview shows what training sees of a batch row, counted from 0: the text of its documents, one after the other, the
// tokens that are trained between ⟦ and ⟧. Look at a few before a long run.
func (t *SFTTrainer) Preview(row int) (string, error) {
	if err := t.train.checkRow(row); err != nil {
		return "", err
	}
	return t.train.preview(t.tok, row, plainMarks)
}

// WritePreview writes the first n batch rows as Preview shows them, each behind a line with its counts. On a terminal trained
// tokens are green and others grey instead of marked, unless the environment has NO_COLOR.
func (t *SFTTrainer) WritePreview(w io.Writer, n int) error {
	return t.train.writePreview(w, t.tok, n)
}

// PreviewToken is a token of a batch row and what training makes of it.
type PreviewToken struct {
	Document int    `json:"document"` // of the row, from 0: documents do not see each other
	ID       int    `json:"id"`
	Text     string `json:"text"`    // of this token alone: a character of several tokens is in none of them
	Label    int    `json:"label"`   // its own id, or Ignored
	Trained  bool   `json:"trained"` // whether it is predicted from the tokens before it
}

// PreviewTokens lists the tokens of a batch row, counted from 0.
func (t *SFTTrainer) PreviewTokens(row int) (tokens []PreviewToken, err error) {
	if err := t.train.checkRow(row); err != nil {
		return nil, err
	}
	for number, e := range t.train.rows[row] {
		for i, id := range e.ids {
			text, err := t.tok.Decode([]int{int(id)}, false)
			if err != nil {
				return nil, fmt.Errorf("sft: PreviewTokens of row %d: %w", row, err)
			}
			tokens = append(tokens, PreviewToken{number, int(id), text, int(e.labels[i]), e.predicts(i)})
		}
	}
	runtime.KeepAlive(t)
	return tokens, nil
}

// Preview prepares a training data set as NewSFTTrainer would, writes its first n batch rows to w as WritePreview does, and
// reports on all of it. It needs no model.
func Preview(w io.Writer, tok Tokenizer, rows *Dataset, cfg SFTConfig, n int) (*DataReport, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if err := checkTokens(tok, cfg); err != nil {
		return nil, err
	}
	if err := setChatTemplate(tok, cfg); err != nil {
		return nil, err
	}
	d, report, err := prepare(rows, tok, cfg, cfg.Packing, "training")
	if err != nil {
		return nil, err
	}
	return report, d.writePreview(w, tok, n)
}

// previewMarks stand around trained and other tokens.
type previewMarks struct{ trained, trainedEnd, other, otherEnd string }

var (
	plainMarks  = previewMarks{trained: "⟦", trainedEnd: "⟧"}
	colourMarks = previewMarks{"\x1b[32m", "\x1b[0m", "\x1b[90m", "\x1b[0m"}
)

func (d *dataset) checkRow(row int) error {
	if row < 0 || row >= len(d.rows) {
		return fmt.Errorf("sft: Preview of row %d: there are %d", row, len(d.rows))
	}
	return nil
}

func (d *dataset) writePreview(w io.Writer, tok Tokenizer, n int) error {
	marks := plainMarks
	if f, ok := w.(*os.File); ok && isTerminal(f) && os.Getenv("NO_COLOR") == "" {
		marks = colourMarks
	}
	for row := range min(n, len(d.rows)) {
		text, err := d.preview(tok, row, marks)
		if err != nil {
			return err
		}
		trained := 0
		for _, e := range d.rows[row] {
			for i := range e.ids {
				if e.predicts(i) {
					trained++
				}
			}
		}
		if _, err := fmt.Fprintf(w, "row %d: documents %d, tokens %d, trained %d\n%s", row, len(d.rows[row]), d.rows[row].length(), trained, text); err != nil {
			return fmt.Errorf("sft: preview: %w", err)
		}
	}
	return nil
}

// preview is the text of a batch row, its trained and other tokens marked.
func (d *dataset) preview(tok Tokenizer, row int, marks previewMarks) (string, error) {
	var b strings.Builder
	for _, e := range d.rows[row] {
		for at := 0; at < len(e.ids); {
			trained, end := e.predicts(at), at
			var ids []int
			for ; end < len(e.ids) && e.predicts(end) == trained; end++ {
				ids = append(ids, int(e.ids[end]))
			}
			text, err := tok.Decode(ids, false)
			if err != nil {
				return "", fmt.Errorf("sft: Preview of row %d: %w", row, err)
			}
			before, after := marks.other, marks.otherEnd
			if trained {
				before, after = marks.trained, marks.trainedEnd
			}
			b.WriteString(before + text + after)
			at = end
		}
		b.WriteByte('\n')
	}
	runtime.KeepAlive(d)
	return b.String(), nil
}

// predicts reports whether token i is trained: nothing predicts the first.
func (e example) predicts(i int) bool { return i > 0 && e.labels[i] != Ignored }
