package dataset

import (
	"fmt"
	"iter"
	"maps"
	"slices"
)

// Map replaces every row by what f makes of it. f may change and return the row that it is given, a shallow copy. It is run
// once for a row in memory, and by every pass for a row of a stream, when the row is asked for. The error of a pass names the row.
func (d *Dataset) Map(f func(Row) (Row, error)) *Dataset {
	return d.derived(func(rows iter.Seq2[Row, error]) iter.Seq2[Row, error] {
		return each(rows, "Map", func(row Row) (Row, bool, error) {
			row, err := f(maps.Clone(row))
			return row, true, err
		})
	})
}

// Filter keeps the rows for which keep is true.
func (d *Dataset) Filter(keep func(Row) (bool, error)) *Dataset {
	return d.derived(func(rows iter.Seq2[Row, error]) iter.Seq2[Row, error] {
		return each(rows, "Filter", func(row Row) (Row, bool, error) {
			kept, err := keep(row)
			return row, kept, err
		})
	})
}

// SelectColumns keeps only these columns. A row without one of them is an error.
func (d *Dataset) SelectColumns(names ...string) *Dataset {
	selected := d.derived(func(rows iter.Seq2[Row, error]) iter.Seq2[Row, error] {
		return each(rows, "SelectColumns", func(row Row) (Row, bool, error) {
			out := make(Row, len(names))
			for _, name := range names {
				v, ok := row[name]
				if !ok {
					return nil, false, fmt.Errorf("column %q is missing (the row has %s)", name, quoted(row.Columns()))
				}
				out[name] = v
			}
			return out, true, nil
		})
	})
	return selected.printed(d, "select", names)
}

// RemoveColumns leaves these columns out. A row without one of them is an error.
func (d *Dataset) RemoveColumns(names ...string) *Dataset {
	removed := d.derived(func(rows iter.Seq2[Row, error]) iter.Seq2[Row, error] {
		return each(rows, "RemoveColumns", func(row Row) (Row, bool, error) {
			out := maps.Clone(row)
			for _, name := range names {
				if _, ok := row[name]; !ok {
					return nil, false, fmt.Errorf("column %q is missing (the row has %s)", name, quoted(row.Columns()))
				}
				delete(out, name)
			}
			return out, true, nil
		})
	})
	return removed.printed(d, "remove", names)
}

// RenameColumn gives a column another name. A row without it, or that has the new name already, is an error.
func (d *Dataset) RenameColumn(from, to string) *Dataset {
	renamed := d.derived(func(rows iter.Seq2[Row, error]) iter.Seq2[Row, error] {
		return each(rows, "RenameColumn", func(row Row) (Row, bool, error) {
			v, ok := row[from]
			_, taken := row[to]
			switch {
			case !ok:
				return nil, false, fmt.Errorf("column %q is missing (the row has %s)", from, quoted(row.Columns()))
			case taken:
				return nil, false, fmt.Errorf("column %q is there already; remove it before %q takes its name", to, from)
			}
			out := maps.Clone(row)
			delete(out, from)
			out[to] = v
			return out, true, nil
		})
	})
	return renamed.printed(d, "rename", []string{from, to})
}

// each runs f on every row; f says whether the row stays.
func each(rows iter.Seq2[Row, error], what string, f func(Row) (Row, bool, error)) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		index := 0
		for row, err := range rows {
			if err != nil {
				yield(nil, err)
				return
			}
			row, keep, err := f(row)
			if err != nil {
				yield(nil, rowError(what, index, err))
				return
			}
			if keep && !yield(row, nil) {
				return
			}
			index++
		}
	}
}

// Take keeps the first n rows.
func (d *Dataset) Take(n int) *Dataset {
	taken := d.derived(func(rows iter.Seq2[Row, error]) iter.Seq2[Row, error] {
		return func(yield func(Row, error) bool) {
			if n <= 0 {
				return
			}
			left := n
			for row, err := range rows {
				left--
				if !yield(row, err) || left == 0 {
					return
				}
			}
		}
	})
	return taken.printed(d, "take", n)
}

// Skip leaves the first n rows out.
func (d *Dataset) Skip(n int) *Dataset {
	left := d.derived(func(rows iter.Seq2[Row, error]) iter.Seq2[Row, error] {
		return func(yield func(Row, error) bool) {
			index := 0
			for row, err := range rows {
				if (err != nil || index >= n) && !yield(row, err) {
					return
				}
				index++
			}
		}
	})
	return left.printed(d, "skip", n)
}

// Concatenate puts data sets one behind the other. It streams if one of them does.
func Concatenate(sets ...*Dataset) *Dataset {
	all := combined(sets, func(yield func(Row, error) bool) {
		for _, d := range sets {
			for row, err := range d.All() {
				if !yield(row, err) || err != nil {
					return
				}
			}
		}
	})
	all.print = printOf(sets, "concatenate")
	return all
}

// combined is a data set of rows of several: a stream if one of them is.
func combined(sets []*Dataset, seq iter.Seq2[Row, error]) *Dataset {
	if slices.ContainsFunc(sets, (*Dataset).Streaming) {
		return FromSeq(seq)
	}
	return inMemory(FromSeq(seq).Rows)
}
