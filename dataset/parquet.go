package dataset

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/parquet-go/parquet-go"
)

// readParquet reads an Apache Parquet file, a page of every column at a time. It reads only Options.Columns where they are
// named.
func readParquet(f *os.File, o Options, yield func(Row) bool) (err error) {
	defer func() { // the library checks less than a file from outside needs
		if r := recover(); r != nil {
			err = fmt.Errorf("malformed Parquet: %v", r)
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	file, err := parquet.OpenFile(f, info.Size(), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return fmt.Errorf("malformed Parquet: %w", err)
	}
	columns, err := parquetColumns(file.Root(), o.Columns)
	if err != nil {
		return err
	}
	for i, group := range file.RowGroups() {
		more, err := readRowGroup(group, columns, yield)
		if err != nil {
			return fmt.Errorf("row group %d: %w", i, err)
		}
		if !more {
			return nil
		}
	}
	return nil
}

// parquetColumns are the top-level columns to read; nil names: all.
func parquetColumns(root *parquet.Column, names []string) (columns []*parquet.Column, err error) {
	if names == nil {
		return root.Columns(), nil
	}
	for _, name := range names {
		c := root.Column(name)
		if c == nil {
			var known []string
			for _, c := range root.Columns() {
				known = append(known, c.Name())
			}
			return nil, fmt.Errorf("column %q is missing (the file has %s)", name, quoted(known))
		}
		columns = append(columns, c)
	}
	return columns, nil
}

func readRowGroup(group parquet.RowGroup, columns []*parquet.Column, yield func(Row) bool) (more bool, err error) {
	chunks := group.ColumnChunks()
	var leaves []*leafReader
	defer func() {
		for _, l := range leaves {
			err = errors.Join(err, l.close())
		}
	}()
	nodes := make([]*columnNode, len(columns))
	for i, c := range columns {
		nodes[i], err = newColumnNode(c, 0, 0, func(c *parquet.Column) *leafReader {
			l := &leafReader{name: c.Name(), pages: chunks[c.Index()].Pages()}
			leaves = append(leaves, l)
			return l
		})
		if err != nil {
			return false, err
		}
	}
	for n := range group.NumRows() {
		row := make(Row, len(columns))
		for _, node := range nodes {
			v, err := node.read()
			if err != nil {
				return false, fmt.Errorf("row %d: column %q: %w", n+1, node.name, err)
			}
			if row[node.name], err = columnValue(node.name, v); err != nil {
				return false, fmt.Errorf("row %d: column %q: %w", n+1, node.name, err)
			}
		}
		if !yield(row) {
			return false, nil
		}
	}
	return true, nil
}

// leafReader goes through the values of a leaf column.
type leafReader struct {
	name   string
	pages  parquet.Pages
	page   parquet.Page
	values parquet.ValueReader
	buffer [256]parquet.Value
	ahead  []parquet.Value // of buffer, not yet used
}

// peek returns the next value without using it up; false at the end.
func (l *leafReader) peek() (v parquet.Value, ok bool, err error) {
	for len(l.ahead) == 0 {
		if l.values == nil {
			page, err := l.pages.ReadPage()
			if err == io.EOF {
				return v, false, nil
			}
			if err != nil {
				return v, false, err
			}
			l.page, l.values = page, page.Values()
		}
		n, err := l.values.ReadValues(l.buffer[:])
		if err != nil && err != io.EOF {
			return v, false, err
		}
		l.ahead = l.buffer[:n]
		if n == 0 {
			parquet.Release(l.page)
			l.page, l.values = nil, nil
		}
	}
	return l.ahead[0], true, nil
}

// next uses a value up.
func (l *leafReader) next() (parquet.Value, error) {
	v, ok, err := l.peek()
	if err == nil && !ok {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return v, err
	}
	l.ahead = l.ahead[1:]
	return v, nil
}

func (l *leafReader) close() error {
	if l.page != nil {
		parquet.Release(l.page)
	}
	return l.pages.Close()
}

// columnNode puts the values of a column back together (arXiv:1109.2246 tells how Dremel takes them apart): definition and
// repetition levels say how much of the path to a leaf is there, and at which list on it the value continues.
type columnNode struct {
	name     string
	kind     nodeKind
	defined  int // definition level from which on this node is not nil; of a list, from which on it has an element
	repeated int // repetition level of a list's further elements
	fields   []*columnNode
	leaves   []*leafReader // all below; the first speaks for the node
	convert  func(parquet.Value) any
}

type nodeKind int

const (
	leafNode nodeKind = iota
	objectNode
	listNode
)

// newColumnNode describes a column below ancestors with these levels. A leaf's reader comes from open.
func newColumnNode(c *parquet.Column, defined, repeated int, open func(*parquet.Column) *leafReader) (n *columnNode, err error) {
	n = &columnNode{name: c.Name(), repeated: repeated}
	if c.Optional() {
		defined++
	}
	n.defined = defined
	if c.Repeated() { // without a LIST around it
		return newListNode(n, c, c, open)
	}
	if c.Leaf() {
		if n.convert, err = converter(c); err != nil {
			return nil, fmt.Errorf("column %q: %w; name the columns to read in Options.Columns", c.Name(), err)
		}
		n.leaves = []*leafReader{open(c)}
		return n, nil
	}
	children := c.Columns()
	if isList(c) && len(children) == 1 && children[0].Repeated() {
		list, element := children[0], children[0]
		if inner := list.Columns(); len(inner) == 1 && list.Name() != "array" && list.Name() != c.Name()+"_tuple" {
			element = inner[0]
		}
		return newListNode(n, list, element, open)
	}
	n.kind = objectNode
	for _, child := range children {
		field, err := newColumnNode(child, defined, repeated, open)
		if err != nil {
			return nil, err
		}
		n.fields, n.leaves = append(n.fields, field), append(n.leaves, field.leaves...)
	}
	if len(n.leaves) == 0 {
		return nil, fmt.Errorf("column %q is an object without fields; name the columns to read in Options.Columns", c.Name())
	}
	return n, nil
}

// newListNode makes n a list. Its repeated group is list; an element is that itself, or the one field in it.
func newListNode(n *columnNode, list, element *parquet.Column, open func(*parquet.Column) *leafReader) (*columnNode, error) {
	n.kind = listNode
	inner := &columnNode{name: list.Name(), defined: n.defined + 1, repeated: n.repeated + 1}
	var err error
	switch {
	case element != list:
		inner, err = newColumnNode(element, n.defined+1, n.repeated+1, open)
	case list.Leaf():
		inner.leaves = []*leafReader{open(list)}
		inner.convert, err = converter(list)
	default:
		inner.kind = objectNode
		for _, child := range list.Columns() {
			var field *columnNode
			if field, err = newColumnNode(child, inner.defined, inner.repeated, open); err != nil {
				break
			}
			inner.fields, inner.leaves = append(inner.fields, field), append(inner.leaves, field.leaves...)
		}
	}
	if err != nil {
		return nil, err
	}
	n.repeated++
	n.fields, n.leaves = []*columnNode{inner}, inner.leaves
	return n, nil
}

// field is one of an object, whose order a map would lose.
type field struct {
	name  string
	value any
}

// object is what a group of columns holds.
type object []field

// read returns the node's next value: nil, a leaf's, an object or []any.
func (n *columnNode) read() (any, error) {
	first, ok, err := n.leaves[0].peek()
	if err == nil && !ok {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	level := first.DefinitionLevel()
	switch {
	case level < n.defined:
		return nil, n.skip()
	case n.kind == leafNode:
		v, err := n.leaves[0].next()
		if err != nil || v.IsNull() {
			return nil, err
		}
		return n.convert(v), nil
	case n.kind == listNode:
		return n.readList(level)
	}
	o := make(object, len(n.fields))
	for i, f := range n.fields {
		v, err := f.read()
		if err != nil {
			return nil, err
		}
		o[i] = field{f.name, v}
	}
	return o, nil
}

func (n *columnNode) readList(level int) (any, error) {
	list := []any{}
	if level == n.defined { // it is there, and empty
		return list, n.skip()
	}
	for {
		v, err := n.fields[0].read()
		if err != nil {
			return nil, err
		}
		list = append(list, v)
		next, ok, err := n.leaves[0].peek()
		if err != nil {
			return nil, err
		}
		if !ok || next.RepetitionLevel() < n.repeated {
			return slices.Clip(list), nil
		}
	}
}

// skip uses up what stands for a nil or an empty list: one value of every leaf.
func (n *columnNode) skip() error {
	for _, l := range n.leaves {
		if _, err := l.next(); err != nil {
			return err
		}
	}
	return nil
}
