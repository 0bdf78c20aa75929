package gguf

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/loris-ml/loris/internal/atomicfile"
)

// Pair is a metadata key with its value: a number of a sized Go type, a bool or a string, or a slice of one of them, as
// [Metadata.Value] returns them.
type Pair struct {
	Key   string
	Value any
}

// Source is a tensor that is to be written.
type Source struct {
	Name  string
	Shape []int // row-major, as in [TensorInfo]
	Type  Type
	// Data returns the stored bytes, for example by [Encode]. It is called once, when the tensor's turn comes; the bytes are
	// not kept.
	Data func() ([]byte, error)
}

// Write creates or replaces a GGUF file of version 3, little endian, aligned to 32 bytes. The file appears when it is
// whole. Double names, unfitting shapes and data, and values of a kind that GGUF does not have are errors that name the key
// or the tensor.
func Write(path string, metadata []Pair, tensors []Source) error {
	header, sizes, err := header(metadata, tensors)
	if err != nil {
		return fmt.Errorf("write GGUF file %s: %w", path, err)
	}
	return atomicfile.Write(path, func(w io.Writer) error {
		if _, err := w.Write(header); err != nil {
			return err
		}
		for i, t := range tensors {
			raw, err := t.Data()
			if err != nil {
				return fmt.Errorf("tensor %q: %w", t.Name, err)
			}
			if int64(len(raw)) != sizes[i] {
				return fmt.Errorf("tensor %q: %d bytes of data, but shape %v of %s takes %d", t.Name, len(raw), t.Shape, t.Type, sizes[i])
			}
			if _, err := w.Write(raw); err != nil {
				return err
			}
			if _, err := w.Write(make([]byte, padding(sizes[i]))); err != nil {
				return err
			}
		}
		return nil
	})
}

// padding is what follows n bytes up to the next aligned place.
func padding(n int64) int64 { return -n & (defaultAlignment - 1) }

// header returns all that precedes the data, and the size of each tensor.
func header(metadata []Pair, tensors []Source) (raw []byte, sizes []int64, err error) {
	raw = append(raw, "GGUF"...)
	raw = binary.LittleEndian.AppendUint32(raw, 3)
	raw = binary.LittleEndian.AppendUint64(raw, uint64(len(tensors)))
	raw = binary.LittleEndian.AppendUint64(raw, uint64(len(metadata)))
	seen := map[string]bool{}
	for _, p := range metadata {
		if seen[p.Key] || p.Key == "general.alignment" {
			return nil, nil, fmt.Errorf("metadata key %q is given twice, or is not for callers", p.Key)
		}
		seen[p.Key] = true
		if raw, err = appendValue(appendString(raw, p.Key), p.Value); err != nil {
			return nil, nil, fmt.Errorf("metadata key %q: %w", p.Key, err)
		}
	}
	seen, at := map[string]bool{}, int64(0)
	for _, t := range tensors {
		if seen[t.Name] {
			return nil, nil, fmt.Errorf("tensor %q is given twice", t.Name)
		}
		seen[t.Name] = true
		size, err := t.size()
		if err != nil {
			return nil, nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		raw = t.appendInfo(raw, at)
		sizes = append(sizes, size)
		at += size + padding(size)
	}
	return append(raw, make([]byte, padding(int64(len(raw))))...), sizes, nil
}

// size is the length of the data in bytes.
func (t Source) size() (int64, error) {
	if len(t.Shape) > maxDims {
		return 0, fmt.Errorf("%d dimensions, GGUF allows %d", len(t.Shape), maxDims)
	}
	var stored []uint64 // innermost first
	for i := range t.Shape {
		stored = append(stored, uint64(t.Shape[len(t.Shape)-1-i]))
	}
	_, size, err := shapeAndSize(stored, t.Type)
	if err == nil && size < 0 {
		err = fmt.Errorf("the size of %s is not known", t.Type)
	}
	return size, err
}

func (t Source) appendInfo(raw []byte, at int64) []byte {
	raw = binary.LittleEndian.AppendUint32(appendString(raw, t.Name), uint32(len(t.Shape)))
	for i := range t.Shape {
		raw = binary.LittleEndian.AppendUint64(raw, uint64(t.Shape[len(t.Shape)-1-i]))
	}
	raw = binary.LittleEndian.AppendUint32(raw, uint32(t.Type))
	return binary.LittleEndian.AppendUint64(raw, uint64(at))
}

func appendString(raw []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(raw, uint64(len(s))), s...)
}

// appendValue appends a value's type and the value.
func appendValue(raw []byte, v any) ([]byte, error) {
	if t, ok := typeOf(v); ok {
		return appendElement(binary.LittleEndian.AppendUint32(raw, t), v)
	}
	switch v := v.(type) {
	case []string:
		return appendArray(raw, v)
	case []bool:
		return appendArray(raw, v)
	case []uint8:
		return appendArray(raw, v)
	case []int8:
		return appendArray(raw, v)
	case []uint16:
		return appendArray(raw, v)
	case []int16:
		return appendArray(raw, v)
	case []uint32:
		return appendArray(raw, v)
	case []int32:
		return appendArray(raw, v)
	case []uint64:
		return appendArray(raw, v)
	case []int64:
		return appendArray(raw, v)
	case []float32:
		return appendArray(raw, v)
	case []float64:
		return appendArray(raw, v)
	}
	return nil, fmt.Errorf("GGUF has no value of type %T", v)
}

// typeOf is the type of a value that is no array.
func typeOf(v any) (uint32, bool) {
	switch v.(type) {
	case uint8:
		return typeUint8, true
	case int8:
		return typeInt8, true
	case uint16:
		return typeUint16, true
	case int16:
		return typeInt16, true
	case uint32:
		return typeUint32, true
	case int32:
		return typeInt32, true
	case float32:
		return typeFloat32, true
	case bool:
		return typeBool, true
	case string:
		return typeString, true
	case uint64:
		return typeUint64, true
	case int64:
		return typeInt64, true
	case float64:
		return typeFloat64, true
	}
	return 0, false
}

func appendArray[T any](raw []byte, values []T) (_ []byte, err error) {
	t, _ := typeOf(*new(T))
	raw = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(raw, typeArray), t)
	raw = binary.LittleEndian.AppendUint64(raw, uint64(len(values)))
	if t != typeString {
		return binary.Append(raw, binary.LittleEndian, values)
	}
	for _, v := range values {
		if raw, err = appendElement(raw, v); err != nil {
			return nil, err
		}
	}
	return raw, nil
}

func appendElement(raw []byte, v any) ([]byte, error) {
	if s, ok := v.(string); ok {
		return appendString(raw, s), nil
	}
	return binary.Append(raw, binary.LittleEndian, v)
}
