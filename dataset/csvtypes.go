package dataset

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// csvChunk is how many lines of CSV the types of columns are inferred from, as in datasets, which has pandas read so many at a
// time.
const csvChunk = 10_000

// csvMissing are the cells that pandas takes for missing values.
var csvMissing = func() map[string]bool {
	m := map[string]bool{"": true}
	for _, s := range strings.Fields("#N/A #NA -1.#IND -1.#QNAN -NaN -nan 1.#IND 1.#QNAN <NA> N/A NA NULL NaN None n/a nan null") {
		m[s] = true
	}
	m["#N/A N/A"] = true
	return m
}()

// csvRecord is a line of CSV, or more if a cell has line breaks.
type csvRecord struct {
	line  int
	cells []string
}

// csvTypes gives the cells of CSV the types that pandas.read_csv infers: whole numbers, numbers, truth values or text, and nil
// for missing values. Columns keep the types of the first chunk.
type csvTypes struct {
	header []string
	parse  []func(cell string) (any, bool) // of each column; nil: the first chunk is not read yet
	names  []string                        // of the types
	chunk  []csvRecord
}

// add takes the next record, and yields rows when a chunk is full.
func (c *csvTypes) add(r csvRecord, yield func(Row) bool) (more bool, err error) {
	c.chunk = append(c.chunk, r)
	if len(c.chunk) < csvChunk {
		return true, nil
	}
	return c.flush(yield)
}

// flush yields the rows that have been added.
func (c *csvTypes) flush(yield func(Row) bool) (more bool, err error) {
	if c.parse == nil {
		for i := range c.header {
			c.infer(i)
		}
	}
	chunk := c.chunk
	c.chunk = nil
	for _, r := range chunk {
		row := make(Row, len(c.header))
		for i, cell := range r.cells {
			value, ok := any(nil), true
			if !csvMissing[cell] {
				value, ok = c.parse[i](cell)
			}
			if !ok {
				return false, fmt.Errorf("line %d: column %q has %q, and %s in the first %d rows; unset Options.InferTypes, and convert the column by Map",
					r.line, c.header[i], cell, c.names[i], csvChunk)
			}
			row[c.header[i]] = value
		}
		if !yield(row) {
			return false, nil
		}
	}
	return true, nil
}

// infer finds the type of a column in the first chunk.
func (c *csvTypes) infer(column int) {
	missing := false
	fits := func(parse func(string) (any, bool)) bool {
		for _, r := range c.chunk {
			cell := r.cells[column]
			if csvMissing[cell] {
				missing = true
			} else if _, ok := parse(cell); !ok {
				return false
			}
		}
		return true
	}
	parse, name := csvText, "text"
	switch {
	case fits(csvInt):
		if parse, name = csvInt, "whole numbers"; missing { // which NumPy's integers have no value for
			parse, name = csvFloat, "numbers"
		}
	case fits(csvFloat):
		parse, name = csvFloat, "numbers"
	case fits(csvBool):
		parse, name = csvBool, "truth values"
	}
	c.parse, c.names = append(c.parse, parse), append(c.names, name)
}

func csvText(cell string) (any, bool) { return cell, true }

func csvInt(cell string) (any, bool) {
	n, err := strconv.ParseInt(strings.TrimSpace(cell), 10, 64)
	return n, err == nil
}

// csvFloat takes numbers as they are usually written, and inf; strconv knows more forms.
func csvFloat(cell string) (any, bool) {
	cell = strings.TrimSpace(cell)
	if strings.ContainsAny(cell, "xXpP_") {
		return nil, false
	}
	f, err := strconv.ParseFloat(cell, 64)
	if errors.Is(err, strconv.ErrRange) {
		err = nil // ±Inf or 0, as in C
	}
	return f, err == nil && !math.IsNaN(f)
}

func csvBool(cell string) (any, bool) {
	switch cell {
	case "True", "TRUE", "true":
		return true, true
	case "False", "FALSE", "false":
		return false, true
	}
	return nil, false
}
