package dataset

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// readArrow reads an Arrow stream (https://arrow.apache.org/docs/format/Columnar.html), which is what datasets keeps in its
// cache and save_to_disk writes, a record batch at a time. A library for all of Arrow takes longer to compile than all
// else here; of it, what datasets writes is needed: no dictionaries, compression, views or unions.
func readArrow(in io.Reader, o Options, yield func(Row) bool) (err error) {
	defer func() { // offsets in a file from outside may lead anywhere
		if r := recover(); r != nil {
			err = fmt.Errorf("malformed Arrow: %v", r)
		}
	}()
	r := bufio.NewReaderSize(in, 1<<20)
	if start, err := r.Peek(6); err == nil && string(start) == "ARROW1" {
		return errors.New("this is an Arrow file, with an index; want an Arrow stream, as datasets writes")
	}
	var columns []*arrowField
	for {
		message, err := readArrowMessage(r)
		if err == io.EOF {
			if columns == nil {
				return errors.New("malformed Arrow: the file has no schema")
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("malformed Arrow: %w", err)
		}
		switch message.kind {
		case arrowSchema:
			if columns, err = arrowColumns(message.header, o.Columns); err != nil {
				return err
			}
		case arrowRecordBatch:
			batch := &arrowBatch{header: message.header, body: message.body}
			more, err := batch.rows(columns, yield)
			if err != nil {
				return fmt.Errorf("malformed Arrow: %w", err)
			}
			if !more {
				return nil
			}
		default:
			return fmt.Errorf("Arrow messages of kind %d, such as dictionaries, are not supported; convert the file to Parquet", message.kind)
		}
	}
}

// Kinds of messages, and the types that datasets writes: the numbers of Arrow's Message.fbs and Schema.fbs.
const (
	arrowSchema      = 1
	arrowRecordBatch = 3

	arrowNull          = 1
	arrowInt           = 2
	arrowFloat         = 3
	arrowBinary        = 4
	arrowUTF8          = 5
	arrowBool          = 6
	arrowDate          = 8
	arrowTimestamp     = 10
	arrowList          = 12
	arrowStruct        = 13
	arrowFixedSizeList = 16
	arrowLargeBinary   = 19
	arrowLargeUTF8     = 20
	arrowLargeList     = 21
)

type arrowMessage struct {
	kind   int
	header flatTable
	body   []byte
}

// readArrowMessage reads the next message: its size, a flatbuffer and what that describes.
func readArrowMessage(r io.Reader) (m arrowMessage, err error) {
	var size [4]byte
	for range 2 {
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return m, err
		}
		if binary.LittleEndian.Uint32(size[:]) != 0xffffffff { // else it only marks the start
			break
		}
	}
	n := int(binary.LittleEndian.Uint32(size[:]))
	if n == 0 {
		return m, io.EOF
	}
	metadata, err := readBytes(r, n)
	if err != nil {
		return m, err
	}
	message := flatRoot(metadata)
	m.kind, m.header = int(message.uint8(1)), message.table(2)
	m.body, err = readBytes(r, int(message.int64(3)))
	return m, err
}

// readBytes reads n bytes; it does not trust n with memory that the file does not fill.
func readBytes(r io.Reader, n int) ([]byte, error) {
	if n < 0 {
		return nil, fmt.Errorf("a length is %d", n)
	}
	all := make([]byte, 0, min(n, 1<<20))
	for len(all) < n {
		all = slices.Grow(all, min(n-len(all), max(len(all), 1<<20)))
		part := all[len(all):min(cap(all), n)]
		if _, err := io.ReadFull(r, part); err != nil {
			return nil, io.ErrUnexpectedEOF
		}
		all = all[:len(all)+len(part)]
	}
	return all, nil
}

// arrowField is a column, or what is inside one.
type arrowField struct {
	name     string
	kind     int
	width    int // of a number, in bits; of an element of a fixed-size list, their number
	signed   bool
	unit     int // of dates and timestamps
	children []*arrowField
	skipped  bool // not among Options.Columns
}

func arrowColumns(schema flatTable, names []string) ([]*arrowField, error) {
	var columns []*arrowField
	var known []string
	for _, t := range schema.tables(1) {
		f, err := newArrowField(t)
		if err != nil {
			return nil, err
		}
		f.skipped = names != nil && !slices.Contains(names, f.name)
		columns, known = append(columns, f), append(known, f.name)
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("column %q is missing (the file has %s)", name, quoted(known))
		}
	}
	return columns, nil
}

func newArrowField(t flatTable) (*arrowField, error) {
	f := &arrowField{name: t.string(0), kind: int(t.uint8(2))}
	details := t.table(3)
	switch f.kind {
	case arrowNull, arrowBool, arrowBinary, arrowUTF8, arrowLargeBinary, arrowLargeUTF8, arrowList, arrowLargeList, arrowStruct:
	case arrowInt:
		f.width, f.signed = int(details.int32(0)), details.uint8(1) != 0
	case arrowFloat:
		f.width = 16 << details.int16(0, 0)
	case arrowDate:
		f.unit, f.width = int(details.int16(0, 1)), 32
		if f.unit == 1 {
			f.width = 64
		}
	case arrowTimestamp:
		f.unit, f.width, f.signed = int(details.int16(0, 0)), 64, true
	case arrowFixedSizeList:
		f.width = int(details.int32(0))
	default:
		return nil, fmt.Errorf("column %q has Arrow's type %d, which is not supported; convert the file to Parquet", f.name, f.kind)
	}
	if f.kind == arrowFloat && f.width == 16 || !t.table(4).absent() {
		return nil, fmt.Errorf("column %q has 16-bit floats or a dictionary, which are not supported; convert the file to Parquet", f.name)
	}
	for _, child := range t.tables(5) {
		c, err := newArrowField(child)
		if err != nil {
			return nil, err
		}
		f.children = append(f.children, c)
	}
	if want, ok := map[int]int{arrowList: 1, arrowLargeList: 1, arrowFixedSizeList: 1}[f.kind]; ok && len(f.children) != want {
		return nil, fmt.Errorf("malformed Arrow: column %q is a list of %d types", f.name, len(f.children))
	}
	return f, nil
}

// arrowBatch are rows that follow each other.
type arrowBatch struct {
	header        flatTable
	body          []byte
	nodes, buffer int // next ones of the header
}

func (b *arrowBatch) rows(columns []*arrowField, yield func(Row) bool) (more bool, err error) {
	if !b.header.table(3).absent() {
		return false, errors.New("its batches are compressed, which is not supported; convert the file to Parquet")
	}
	n := int(b.header.int64(0))
	arrays := make([]*arrowArray, len(columns))
	for i, f := range columns {
		if arrays[i] = b.array(f); arrays[i].length != n {
			return false, fmt.Errorf("column %q has %d rows of %d", f.name, arrays[i].length, n)
		}
	}
	for at := range n {
		row := make(Row, len(columns))
		for i, f := range columns {
			if f.skipped {
				continue
			}
			if row[f.name], err = columnValue(f.name, arrays[i].value(at)); err != nil {
				return false, fmt.Errorf("column %q: %w", f.name, err)
			}
		}
		if !yield(row) {
			return false, nil
		}
	}
	return true, nil
}

// array takes the buffers of a field, in the order in which the format has them.
func (b *arrowBatch) array(f *arrowField) *arrowArray {
	a := &arrowArray{arrowField: f, length: int(b.header.structInt64(1, 16, b.nodes, 0))}
	b.nodes++
	if f.kind == arrowNull {
		return a
	}
	a.valid = b.next()
	switch f.kind {
	case arrowStruct, arrowFixedSizeList:
	case arrowUTF8, arrowBinary, arrowLargeUTF8, arrowLargeBinary:
		a.offsets, a.data = b.next(), b.next()
	case arrowList, arrowLargeList:
		a.offsets = b.next()
	default:
		a.data = b.next()
	}
	for _, c := range f.children {
		a.inside = append(a.inside, b.array(c))
	}
	return a
}

func (b *arrowBatch) next() []byte {
	offset, length := b.header.structInt64(2, 16, b.buffer, 0), b.header.structInt64(2, 16, b.buffer, 8)
	b.buffer++
	return b.body[offset : offset+length]
}
