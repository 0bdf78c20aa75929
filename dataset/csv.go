package dataset

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
)

// readCSV reads comma-separated values (RFC 4180) with a header line. Every cell is text, whatever it looks like, and an
// empty one is nil, unless types are to be inferred.
func readCSV(in io.Reader, o Options, yield func(Row) bool) error {
	buffered := bufio.NewReaderSize(in, 1<<20)
	if mark, err := buffered.Peek(3); err == nil && string(mark) == "\ufeff" {
		if _, err := buffered.Discard(3); err != nil {
			return err
		}
	}
	r := csv.NewReader(buffered)
	if o.Delimiter != 0 {
		r.Comma = o.Delimiter
	}
	r.ReuseRecord = true
	header, err := r.Read()
	if err == io.EOF {
		return errors.New("the file is empty; want a header line with the names of the columns")
	}
	if err != nil {
		return err
	}
	header = append([]string(nil), header...)
	seen := map[string]bool{}
	for i, name := range header {
		if seen[name] {
			return fmt.Errorf("line 1: column %d is named %q as another is; give columns different names", i+1, name)
		}
		seen[name] = true
	}
	types := &csvTypes{header: header}
	for {
		record, err := r.Read()
		if err == io.EOF {
			_, err := types.flush(yield)
			return err
		}
		if errors.Is(err, csv.ErrFieldCount) {
			line, _ := r.FieldPos(0)
			return fmt.Errorf("line %d: %d cells, and the header names %d columns; quote cells that hold the delimiter %q", line, len(record), len(header), r.Comma)
		}
		if err != nil {
			return err
		}
		row := make(Row, len(header))
		for i, name := range header {
			row[name] = nil
			if record[i] != "" {
				if err := checkUTF8(record[i]); err != nil {
					line, column := r.FieldPos(i)
					return fmt.Errorf("line %d, column %d: %w", line, column, err)
				}
				row[name] = record[i]
			}
		}
		more := true
		if o.InferTypes {
			line, _ := r.FieldPos(0)
			more, err = types.add(csvRecord{line, slices.Clone(record)}, yield)
		} else {
			more = yield(row)
		}
		if !more {
			return err
		}
	}
}
