package models

import (
	"strings"

	"github.com/loris-ml/loris/tokenizer"
)

// textWriter makes text of a row's tokens and looks for stop strings in it.
type textWriter struct {
	tok     Tokenizer
	stream  decodeStream
	stops   []string
	held    string // decoded, but perhaps the beginning of a stop string
	text    strings.Builder
	stopped bool // at a stop string, which held begins with
}

// decodeStream decodes ids as they come; *tokenizer.DecodeStream is one.
type decodeStream interface {
	Step(ids ...int) (string, error)
	Flush() (string, error)
}

func newTextWriter(tok Tokenizer, stops []string) *textWriter {
	w := &textWriter{tok: tok, stops: stops, stream: &wholeDecoder{tok: tok}}
	if t, ok := tok.(interface {
		NewDecodeStream(skipSpecialTokens bool) *tokenizer.DecodeStream
	}); ok {
		w.stream = t.NewDecodeStream(true)
	}
	return w
}

// add takes the next token and returns the text that is certain now.
func (w *textWriter) add(id int) (string, error) {
	text, err := w.stream.Step(id)
	if err != nil {
		return "", err
	}
	return w.release(text, false), nil
}

// finish returns the text that is left when no more tokens come.
func (w *textWriter) finish() (string, error) {
	if w.stopped {
		return "", nil
	}
	text, err := w.stream.Flush()
	if err != nil {
		return "", err
	}
	return w.release(text, true), nil
}

// release takes more text and returns what cannot become part of a stop string; at the end, all before one.
func (w *textWriter) release(text string, end bool) string {
	w.held += text
	n, found := w.find()
	switch {
	case found:
		w.stopped = true
	case !end:
		n -= w.beginning()
	}
	out := w.held[:n]
	w.held = w.held[n:]
	w.text.WriteString(out)
	return out
}

// find returns where in the held text the stop string begins that is complete first, the longest of several: what it finds
// does not depend on the pieces in which text comes. Without one it returns the text's length.
func (w *textWriter) find() (at int, found bool) {
	at, end := len(w.held), len(w.held)+1
	for _, stop := range w.stops {
		if i := strings.Index(w.held, stop); i >= 0 && (i+len(stop) < end || i+len(stop) == end && i < at) {
			at, end = i, i+len(stop)
		}
	}
	return at, end <= len(w.held)
}

// beginning is the length of the longest end of the held text that a stop string begins with.
func (w *textWriter) beginning() (longest int) {
	for _, stop := range w.stops {
		for n := min(len(stop)-1, len(w.held)); n > longest; n-- {
			if strings.HasSuffix(w.held, stop[:n]) {
				longest = n
			}
		}
	}
	return longest
}

// whole returns the text of a row that has ended; ids are its tokens. Decoded at once it is what the tokenizer says of it,
// also where the stream could not take back bytes.
func (w *textWriter) whole(ids []int) (string, error) {
	if len(w.stops) == 0 {
		return w.tok.Decode(ids, true)
	}
	if _, err := w.finish(); err != nil {
		return "", err
	}
	if w.stopped {
		return w.text.String(), nil
	}
	return w.tok.Decode(ids, true)
}

// wholeDecoder is the stream of a tokenizer that has none: it decodes all ids again at every step.
type wholeDecoder struct {
	tok   Tokenizer
	ids   []int
	shown string
}

func (d *wholeDecoder) Step(ids ...int) (string, error) {
	d.ids = append(d.ids, ids...)
	text, err := d.tok.Decode(d.ids, true)
	if err != nil {
		return "", err
	}
	text = strings.TrimRight(text, "\ufffd") // perhaps the beginning of a character
	return d.show(text), nil
}

func (d *wholeDecoder) Flush() (string, error) {
	text, err := d.tok.Decode(d.ids, true)
	if err != nil {
		return "", err
	}
	return d.show(text), nil
}

func (d *wholeDecoder) show(text string) string {
	more, ok := strings.CutPrefix(text, d.shown)
	if !ok {
		return ""
	}
	d.shown = text
	return more
}
