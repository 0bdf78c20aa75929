package sft

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// LoadJSONL reads the rows of a data file: JSON lines (.jsonl, .ndjson) or a JSON array of objects (.json; lines work
// too). A byte order mark and blank lines are skipped. The trainer understands rows with these columns; the first row
// decides for all:
//
//	{"text": "…"}                                              plain text (SFTConfig.DatasetTextField)
//	{"prompt": "…", "completion": "…"}                         texts, or lists of messages
//	{"messages": [{"role": "user", "content": "…"}, …]}        a conversation
//	{"conversations": [{"from": "user", "value": "…"}, …]}     ShareGPT: becomes messages
//	{"input_ids": […], "labels": […]}                          tokenized already; labels are optional
//
// Conversational rows may also have tools (a list, or JSON text of one) and chat_template_kwargs (an object).
// The error names the file, and the line and column of what is malformed.
func LoadJSONL(path string) ([]Row, error) {
	switch ext := strings.ToLower(filepath.Ext(path)); ext {
	case ".jsonl", ".ndjson", ".json":
	default:
		return nil, fmt.Errorf("sft: %s: the extension is %q; want a .jsonl or .json file", path, ext)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("sft: %w", err)
	}
	defer f.Close()
	in := &lineReader{in: bufio.NewReaderSize(f, 1<<20)}
	rows, err := in.rows()
	if err != nil {
		return nil, fmt.Errorf("sft: %s: %w", path, err)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("sft: %s: the file has no rows; want one JSON object per line", path)
	}
	return rows, nil
}

// lineReader reads lines of any length and counts them.
type lineReader struct {
	in   *bufio.Reader
	line int // of the last one read, from 1
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
		if r.line == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(bytes.TrimSpace(line)) > 0 {
			return line, nil
		}
	}
}

// rows reads JSON lines, or an array if the first line opens one.
func (r *lineReader) rows() (rows []Row, err error) {
	for {
		line, err := r.next()
		if err == io.EOF {
			return rows, nil
		}
		if err != nil {
			return nil, err
		}
		if len(rows) == 0 && bytes.TrimLeft(line, " \t")[0] == '[' {
			return r.array(line)
		}
		row, err := decodeRow(line)
		if err != nil {
			return nil, located(err, line, r.line)
		}
		rows = append(rows, row)
	}
}

// array reads the rest of a file whose first line that is not blank is given.
func (r *lineReader) array(first []byte) ([]Row, error) {
	rest, err := io.ReadAll(r.in)
	if err != nil {
		return nil, err
	}
	text := append(append(bytes.Clone(first), '\n'), rest...)
	var raw []json.RawMessage
	if err := unmarshal(text, &raw); err != nil {
		return nil, located(err, text, r.line)
	}
	rows := make([]Row, len(raw))
	for i, row := range raw {
		if rows[i], err = decodeRow(row); err != nil {
			return nil, fmt.Errorf("element %d of the array: %w", i+1, err)
		}
	}
	return rows, nil
}

// textError is a fault at an offset of a JSON text.
type textError struct {
	offset int // of the offending byte
	what   string
}

func (e *textError) Error() string { return e.what }

// located adds line and column to an error, both counted from 1; text starts at the given line.
func located(err error, text []byte, line int) error {
	at := 0
	if e := (*textError)(nil); errors.As(err, &e) {
		at = min(e.offset, len(text))
	}
	before := text[:at]
	line += bytes.Count(before, []byte("\n"))
	column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	return fmt.Errorf("line %d, column %d: %w", line, column, err)
}

func decodeRow(text []byte) (Row, error) {
	v, err := decodeJSON(text)
	if err != nil {
		return nil, err
	}
	row, ok := v.(map[string]any)
	if !ok {
		return nil, &textError{what: fmt.Sprintf("the row is %s; want an object such as {\"text\": \"…\"}", describe(v))}
	}
	return row, Row(row).keepOrder(text)
}

// decodeJSON decodes one value; whole numbers become int64, others float64.
func decodeJSON(text []byte) (any, error) {
	var v any
	if err := unmarshal(text, &v); err != nil {
		return nil, err
	}
	return plainNumbers(v), nil
}

// unmarshal reports faults as *textError. encoding/json would let text that is not UTF-8 pass, replaced.
func unmarshal(text []byte, v any) error {
	if !utf8.Valid(text) {
		at := 0
		for {
			r, n := utf8.DecodeRune(text[at:])
			if r == utf8.RuneError && n == 1 {
				return &textError{at, fmt.Sprintf("byte %#x is not UTF-8; convert the file", text[at])}
			}
			at += n
		}
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	err := d.Decode(v)
	if err == nil {
		_, err = d.Token()
		if err == io.EOF {
			return nil
		}
		return &textError{int(d.InputOffset()), "more text after the end of the JSON value; want one object per line, or one array"}
	}
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return &textError{int(syntax.Offset) - 1, "malformed JSON: " + err.Error()}
	case errors.As(err, &kind):
		return &textError{int(kind.Offset) - 1, "malformed JSON: " + err.Error()}
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		return &textError{len(text), "malformed JSON: it ends too early; want one object per line, or one array"}
	}
	return &textError{0, err.Error()}
}

func plainNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64() // ±Inf beyond float64, as in Python
		return f
	case []any:
		for i := range v {
			v[i] = plainNumbers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = plainNumbers(v[k])
		}
	}
	return v
}
