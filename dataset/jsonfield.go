package dataset

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
)

// readField reads the rows that are in one field of an object, which is the whole text: an array of objects, or an object of
// columns, arrays of one length. The text is held in memory.
func readField(in io.Reader, field string, yield func(Row) bool) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	var fields map[string]json.RawMessage
	if err := unmarshal(text, &fields); err != nil {
		return located(err, text, 1, 1)
	}
	rows, ok := fields[field]
	if !ok {
		return fmt.Errorf("Options.Field is %q; the object has %s", field, quoted(slices.Sorted(maps.Keys(fields))))
	}
	line, column := advance(1, 1, text[:fieldOffset(text, field)])
	if rows[0] == '[' {
		elements := &arrayReader{in: bufio.NewReader(bytes.NewReader(rows)), line: line, column: column}
		return elements.read(yield)
	}
	if err := readColumns(rows, yield); err != nil {
		return fmt.Errorf("line %d, field %q: %w", line, field, err)
	}
	return nil
}

// fieldOffset is where the value of an object's field begins; the last one counts, as in decoding.
func fieldOffset(text []byte, field string) (at int) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.Token() // the brace: text has been decoded before
	for d.More() {
		name, err := d.Token()
		var value json.RawMessage
		if err != nil || d.Decode(&value) != nil {
			return at
		}
		if name == field {
			at = int(d.InputOffset()) - len(value)
		}
	}
	return at
}

// readColumns reads rows of an object of arrays of one length.
func readColumns(text []byte, yield func(Row) bool) error {
	v, err := decodeJSON(text)
	if err != nil {
		return err
	}
	columns, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("it is %s; want an array of objects, or an object of columns", describe(v))
	}
	names := slices.Sorted(maps.Keys(columns))
	n := -1
	for _, name := range names {
		values, ok := columns[name].([]any)
		if !ok {
			return fmt.Errorf("column %q is %s; want an array with a value for each row", name, describe(columns[name]))
		}
		if n >= 0 && len(values) != n {
			return fmt.Errorf("column %q has %d values, %q %d", name, len(values), names[0], n)
		}
		n = len(values)
	}
	for i := range n {
		row := make(Row, len(names))
		for _, name := range names {
			row[name] = columns[name].([]any)[i]
		}
		if !yield(row) {
			return nil
		}
	}
	return nil
}
