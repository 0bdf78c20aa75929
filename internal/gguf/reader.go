package gguf

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// reader reads the header front to back. It knows how many bytes are left, so that no count or length from the file is
// believed, and no memory allocated for it, before that many bytes are known to be there.
type reader struct {
	r    *bufio.Reader
	pos  int64
	size int64
}

// maxValue bounds a string or array of numbers in the header; the largest in use are vocabularies of some MiB. Without it a
// wrong length in a file of many GB would be believed.
const maxValue = 256 << 20

func newReader(r io.ReaderAt, size int64) *reader {
	return &reader{r: bufio.NewReaderSize(io.NewSectionReader(r, 0, size), int(min(size, 256<<10))), size: size}
}

func (r *reader) left() uint64 { return uint64(r.size - r.pos) }

// need checks that n items of at least size bytes can follow; what names their count.
func (r *reader) need(n uint64, size int, what string) error {
	if n <= r.left()/uint64(size) {
		if n > maxValue/uint64(size) {
			return fmt.Errorf("%s %d at offset %d is absurd; this reader allows %d MiB", what, n, r.pos, maxValue>>20)
		}
		return nil
	}
	if size == 1 {
		return fmt.Errorf("%s of %d bytes at offset %d reaches beyond the file's %d bytes", what, n, r.pos, r.size)
	}
	return fmt.Errorf("%s %d at offset %d, each of at least %d bytes, reaches beyond the file's %d bytes", what, n, r.pos, size, r.size)
}

func (r *reader) bytes(n uint64, what string) ([]byte, error) {
	if err := r.need(n, 1, what); err != nil {
		return nil, err
	}
	buf := make([]byte, n)
	m, err := io.ReadFull(r.r, buf)
	r.pos += int64(m)
	if err != nil {
		return nil, fmt.Errorf("%s at offset %d: %w", what, r.pos, err)
	}
	return buf, nil
}

func (r *reader) u32(what string) (uint32, error) { return number[uint32](r, what) }
func (r *reader) u64(what string) (uint64, error) { return number[uint64](r, what) }

// str reads a length (u64) and that many bytes, of any encoding.
func (r *reader) str(what string) (string, error) {
	n, err := r.u64("length of " + what)
	if err != nil {
		return "", err
	}
	b, err := r.bytes(n, what)
	return string(b), err
}

// fixed are the metadata types of fixed size but bool.
type fixed interface {
	uint8 | int8 | uint16 | int16 | uint32 | int32 | uint64 | int64 | float32 | float64
}

func number[T fixed](r *reader, what string) (T, error) {
	var v T
	b, err := r.bytes(uint64(binary.Size(v)), what)
	if err != nil {
		return v, err
	}
	_, err = binary.Decode(b, binary.LittleEndian, &v)
	return v, err
}

func numbers[T fixed](r *reader, n uint64, what string) ([]T, error) {
	var v T
	if err := r.need(n, binary.Size(v), "count of "+what); err != nil {
		return nil, err
	}
	b, err := r.bytes(n*uint64(binary.Size(v)), what)
	if err != nil {
		return nil, err
	}
	values := make([]T, n)
	_, err = binary.Decode(b, binary.LittleEndian, values)
	return values, err
}
