package dataset

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Values of Options.SampleBy.
const (
	SampleByLine      = "line"
	SampleByParagraph = "paragraph"
	SampleByDocument  = "document"
)

// readText reads plain text into the column text as datasets' text loader does: a row for each line, blank ones too; for
// each paragraph, which blank lines end; or for the whole file. Line ends become "\n"; that of a line is left out.
func readText(in io.Reader, o Options, yield func(Row) bool) error {
	r := &textReader{in: bufio.NewReaderSize(in, 1<<20)}
	switch o.SampleBy {
	case SampleByDocument:
		return r.document(yield)
	case SampleByParagraph:
		return r.paragraphs(yield)
	}
	for {
		line, err := r.line()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if !yield(Row{"text": strings.TrimSuffix(line, "\n")}) {
			return nil
		}
	}
}

// textReader reads lines that "\n", "\r\n" or "\r" end.
type textReader struct {
	in     *bufio.Reader
	number int // of the last line
}

// line returns the next line; its end, if it has one, is "\n".
func (r *textReader) line() (string, error) {
	var b strings.Builder
	for {
		c, err := r.in.ReadByte()
		if err == io.EOF && b.Len() > 0 {
			break
		}
		if err != nil {
			return "", err
		}
		if c == '\r' {
			if next, err := r.in.Peek(1); err == nil && next[0] == '\n' {
				continue
			}
			c = '\n'
		}
		b.WriteByte(c)
		if c == '\n' {
			break
		}
	}
	r.number++
	if err := checkUTF8(b.String()); err != nil {
		return "", fmt.Errorf("line %d: %w", r.number, err)
	}
	return b.String(), nil
}

func (r *textReader) document(yield func(Row) bool) error {
	var all strings.Builder
	for {
		line, err := r.line()
		if err == io.EOF {
			yield(Row{"text": all.String()})
			return nil
		}
		if err != nil {
			return err
		}
		all.WriteString(line)
	}
}

// paragraphs cuts the text at every "\n\n" and leaves empty pieces out, but for the last one, which is the rest.
func (r *textReader) paragraphs(yield func(Row) bool) error {
	var text strings.Builder
	for {
		line, err := r.line()
		if err == io.EOF {
			if text.Len() > 0 {
				yield(Row{"text": text.String()})
			}
			return nil
		}
		if err != nil {
			return err
		}
		if line != "\n" || !strings.HasSuffix(text.String(), "\n") {
			text.WriteString(line)
			continue
		}
		paragraph := strings.TrimSuffix(text.String(), "\n")
		text.Reset()
		if paragraph != "" && !yield(Row{"text": paragraph}) {
			return nil
		}
	}
}

func checkUTF8(s string) error {
	if utf8.ValidString(s) {
		return nil
	}
	for i, c := range s {
		if c == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return fmt.Errorf("byte %#x is not UTF-8; convert the file", s[i])
			}
		}
	}
	return nil
}
