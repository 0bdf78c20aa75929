package dataset

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
)

// readJSON reads objects, one a line, or the elements of an array if the first text opens one. A byte order mark and blank
// lines are skipped. It holds one row at a time.
func readJSON(in io.Reader, o Options, yield func(Row) bool) error {
	if o.Field != "" {
		return readField(in, o.Field, yield)
	}
	r := &lineReader{in: bufio.NewReaderSize(in, 1<<20)}
	line, column, err := r.start()
	if err == io.EOF {
		return nil
	}
	if err != nil {
		return err
	}
	if first, err := r.in.Peek(1); err == nil && first[0] == '[' {
		elements := &arrayReader{in: r.in, line: line, column: column}
		return elements.read(yield)
	}
	r.line = line - 1
	for ; ; column = 1 {
		text, err := r.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		row, err := decodeRow(text)
		if err != nil {
			return located(err, text, r.line, column)
		}
		if !yield(row) {
			return nil
		}
	}
}

// lineReader reads lines of any length and counts them.
type lineReader struct {
	in   *bufio.Reader
	line int // of the last one read, from 1
}

// start skips a byte order mark and space, and returns the place behind it.
func (r *lineReader) start() (line, column int, err error) {
	if mark, err := r.in.Peek(3); err == nil && string(mark) == "\ufeff" {
		if _, err := r.in.Discard(3); err != nil {
			return 0, 0, err
		}
	}
	for line, column = 1, 1; ; {
		c, err := r.in.ReadByte()
		switch {
		case err != nil:
			return 0, 0, err
		case c == '\n':
			line, column = line+1, 1
		case c == ' ' || c == '\t' || c == '\r':
			column++
		default:
			return line, column, r.in.UnreadByte()
		}
	}
}

// next returns the next line that is not blank, without its end; io.EOF when there is none.
func (r *lineReader) next() ([]byte, error) {
	for {
		line, err := r.in.ReadBytes('\n')
		if len(line) == 0 && err != nil {
			return nil, err
		}
		if err != nil && err != io.EOF {
			return nil, err
		}
		r.line++
		line = bytes.TrimRight(line, "\r\n")
		if len(bytes.TrimSpace(line)) > 0 {
			return line, nil
		}
	}
}

// arrayReader reads the elements of a JSON array one by one. It only finds where they end; decoding tells what is wrong.
type arrayReader struct {
	in           *bufio.Reader
	text         []byte // read and not yet used
	line, column int    // of text
}

func (r *arrayReader) read(yield func(Row) bool) error {
	if _, err := r.peek(); err != nil {
		return err
	}
	r.skip(1) // the bracket
	for element := 1; ; element++ {
		c, err := r.peek()
		if err != nil {
			return err
		}
		if c == ']' && element == 1 {
			r.skip(1)
			return r.end()
		}
		n, err := r.elementLen()
		if err != nil {
			return err
		}
		row, err := decodeRow(r.text[:n])
		if e := (*textError)(nil); errors.As(err, &e) && e.offset > 0 {
			return located(err, r.text[:n], r.line, r.column)
		} else if err != nil {
			return fmt.Errorf("element %d of the array, line %d: %w", element, r.line, err)
		}
		if !yield(row) {
			return nil
		}
		r.skip(n)
		if c, err = r.peek(); err != nil {
			return err
		}
		r.skip(1)
		if c == ']' {
			return r.end()
		}
	}
}

// more reads on; io.EOF if there is nothing more.
func (r *arrayReader) more() error {
	if _, err := r.in.Peek(1); err != nil {
		return err
	}
	n := r.in.Buffered()
	r.text = slices.Grow(r.text, n)
	got, err := r.in.Read(r.text[len(r.text) : len(r.text)+n])
	r.text = r.text[:len(r.text)+got]
	return err
}

// skip uses n bytes up.
func (r *arrayReader) skip(n int) {
	r.line, r.column = advance(r.line, r.column, r.text[:n])
	r.text = r.text[n:]
}

// peek skips space and returns the byte behind it.
func (r *arrayReader) peek() (byte, error) {
	for {
		r.skip(len(r.text) - len(bytes.TrimLeft(r.text, " \t\r\n")))
		if len(r.text) > 0 {
			return r.text[0], nil
		}
		if err := r.more(); err == io.EOF {
			return 0, located(&textError{0, "malformed JSON: it ends too early; want ] at the end of the array"}, nil, r.line, r.column)
		} else if err != nil {
			return 0, err
		}
	}
}

// elementLen returns the length of the element that text begins with: up to the comma or bracket that ends it, or as far as
// it can be told to be malformed.
func (r *arrayReader) elementLen() (int, error) {
	depth, quoted, escaped := 0, false, false
	for at := 0; ; at++ {
		for at == len(r.text) {
			if err := r.more(); err == io.EOF {
				return len(r.text), nil
			} else if err != nil {
				return 0, err
			}
		}
		c := r.text[at]
		switch {
		case escaped:
			escaped = false
		case quoted:
			escaped, quoted = c == '\\', c != '"'
		case c == '"':
			quoted = true
		case c == '{' || c == '[':
			depth++
		case depth == 0 && (c == ',' || c == ']'):
			return at, nil
		case c == '}' || c == ']':
			depth--
			if depth < 0 {
				return at + 1, nil
			}
		}
	}
}

// end refuses text behind the array.
func (r *arrayReader) end() error {
	for {
		r.skip(len(r.text) - len(bytes.TrimLeft(r.text, " \t\r\n")))
		if len(r.text) > 0 {
			return located(&textError{0, "more text after the end of the JSON value; want one object per line, or one array"}, nil, r.line, r.column)
		}
		if err := r.more(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}
