package dataset

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// textError is a fault at an offset of a JSON text.
type textError struct {
	offset int // of the offending byte
	what   string
}

func (e *textError) Error() string { return e.what }

// located adds line and column to an error, both counted from 1; text starts at the given line and column.
func located(err error, text []byte, line, column int) error {
	at := 0
	if e := (*textError)(nil); errors.As(err, &e) {
		at = min(e.offset, len(text))
	}
	line, column = advance(line, column, text[:at])
	return fmt.Errorf("line %d, column %d: %w", line, column, err)
}

// advance returns the place behind a text that starts at the given one. Columns count characters.
func advance(line, column int, text []byte) (int, int) {
	if n := bytes.Count(text, []byte("\n")); n > 0 {
		line, column = line+n, 1
		text = text[bytes.LastIndexByte(text, '\n')+1:]
	}
	return line, column + utf8.RuneCount(text)
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

// keepOrder puts the JSON text of lists and objects that chat templates print in their place; text is that of the row.
func (r Row) keepOrder(text []byte) error {
	var columns map[string]json.RawMessage
	for name, v := range r {
		list, ok := v.([]any)
		if !ok || name != "tools" && !r.firstHas(name, "role") && !r.firstHas(name, "from") {
			continue
		}
		if name != "tools" && !nested(list) {
			continue
		}
		if columns == nil {
			if err := unmarshal(text, &columns); err != nil {
				return err
			}
		}
		if name == "tools" {
			r[name] = columns[name]
		} else if err := keepOrderOfMessages(list, columns[name]); err != nil {
			return err
		}
	}
	return nil
}

// nested reports whether a field of a message is a list or an object.
func nested(messages []any) bool {
	for _, m := range messages {
		fields, _ := m.(map[string]any)
		for _, v := range fields {
			switch v.(type) {
			case []any, map[string]any:
				return true
			}
		}
	}
	return false
}

func keepOrderOfMessages(list []any, text json.RawMessage) error {
	var messages []json.RawMessage
	if err := unmarshal(text, &messages); err != nil {
		return err
	}
	for i, m := range list {
		fields, ok := m.(map[string]any)
		if !ok {
			continue // reported where the conversation is read
		}
		var raw map[string]json.RawMessage
		for name, v := range fields {
			switch v.(type) {
			case []any, map[string]any:
			default:
				continue
			}
			if raw == nil {
				if err := unmarshal(messages[i], &raw); err != nil {
					return err
				}
			}
			fields[name] = raw[name]
		}
	}
	return nil
}
