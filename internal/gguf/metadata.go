package gguf

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Metadata are the key-value pairs of a file. The getters report false where the key is absent or its value is of
// another kind or does not fit; they convert between integer sizes and between float sizes, nothing else.
type Metadata struct {
	keys   []string
	values map[string]any
}

// NewMetadata returns metadata that are in no file, with the keys sorted; values are as [Metadata.Value] returns them.
func NewMetadata(values map[string]any) Metadata {
	return Metadata{slices.Sorted(maps.Keys(values)), values}
}

// Keys returns the keys in file order.
func (m Metadata) Keys() []string { return slices.Clone(m.keys) }

// Value returns a value as stored: a Go number, bool or string, a slice of one of them, or []any for nested arrays.
// The slice is the file's own; do not change it.
func (m Metadata) Value(key string) (any, bool) {
	v, ok := m.values[key]
	return v, ok
}

// String returns a string.
func (m Metadata) String(key string) (string, bool) {
	v, ok := m.values[key].(string)
	return v, ok
}

// Bool returns a bool.
func (m Metadata) Bool(key string) (bool, bool) {
	v, ok := m.values[key].(bool)
	return v, ok
}

// Uint returns an integer of any type that is not negative.
func (m Metadata) Uint(key string) (uint64, bool) {
	if v, ok := m.values[key].(uint64); ok {
		return v, true
	}
	v, ok := m.Int(key)
	return uint64(v), ok && v >= 0
}

// Int returns an integer of any type that fits int64.
func (m Metadata) Int(key string) (int64, bool) {
	switch v := m.values[key].(type) {
	case uint8:
		return int64(v), true
	case int8:
		return int64(v), true
	case uint16:
		return int64(v), true
	case int16:
		return int64(v), true
	case uint32:
		return int64(v), true
	case int32:
		return int64(v), true
	case uint64:
		return int64(v), v <= math.MaxInt64
	case int64:
		return v, true
	}
	return 0, false
}

// Float returns a float32 or float64.
func (m Metadata) Float(key string) (float64, bool) {
	switch v := m.values[key].(type) {
	case float32:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// Strings returns an array of strings.
func (m Metadata) Strings(key string) ([]string, bool) {
	v, ok := m.values[key].([]string)
	return slices.Clone(v), ok
}

// Bools returns an array of bools.
func (m Metadata) Bools(key string) ([]bool, bool) {
	v, ok := m.values[key].([]bool)
	return slices.Clone(v), ok
}

// Ints returns an array of integers of any type that all fit int64.
func (m Metadata) Ints(key string) ([]int64, bool) {
	switch v := m.values[key].(type) {
	case []uint8:
		return convert[int64](v), true
	case []int8:
		return convert[int64](v), true
	case []uint16:
		return convert[int64](v), true
	case []int16:
		return convert[int64](v), true
	case []uint32:
		return convert[int64](v), true
	case []int32:
		return convert[int64](v), true
	case []uint64:
		if slices.ContainsFunc(v, func(x uint64) bool { return x > math.MaxInt64 }) {
			return nil, false
		}
		return convert[int64](v), true
	case []int64:
		return slices.Clone(v), true
	}
	return nil, false
}

// Floats returns an array of float32 or float64.
func (m Metadata) Floats(key string) ([]float64, bool) {
	switch v := m.values[key].(type) {
	case []float32:
		return convert[float64](v), true
	case []float64:
		return slices.Clone(v), true
	}
	return nil, false
}

func convert[To, From fixed](values []From) []To {
	out := make([]To, len(values))
	for i, v := range values {
		out[i] = To(v)
	}
	return out
}

// The value types, numbered as gguf_type.
const (
	typeUint8 uint32 = iota
	typeInt8
	typeUint16
	typeInt16
	typeUint32
	typeInt32
	typeFloat32
	typeBool
	typeString
	typeArray
	typeUint64
	typeInt64
	typeFloat64
)

const (
	minString = 8     // an empty string is its length
	minArray  = 4 + 8 // an empty array is its type and its count
	minPair   = minString + 4 + 1
	// maxDepth bounds arrays of arrays; files in use do not nest them.
	maxDepth = 8
	// maxAhead is the number of elements that memory is taken for before they are read.
	maxAhead = 1 << 16
)

func readMetadata(r *reader, count uint64) (Metadata, error) {
	if err := r.need(count, minPair, "metadata count"); err != nil {
		return Metadata{}, err
	}
	m := Metadata{values: map[string]any{}}
	for i := range count {
		key, err := r.str("the key")
		if err != nil {
			return m, fmt.Errorf("metadata pair %d of %d: %w", i+1, count, err)
		}
		if _, ok := m.values[key]; ok {
			return m, fmt.Errorf("metadata key %q appears twice", key)
		}
		valueType, err := r.u32("value type")
		if err == nil {
			m.values[key], err = readValue(r, valueType, 0)
		}
		if err != nil {
			return m, fmt.Errorf("metadata key %q (pair %d of %d): %w", key, i+1, count, err)
		}
		m.keys = append(m.keys, key)
	}
	return m, nil
}

func readValue(r *reader, valueType uint32, depth int) (any, error) {
	const what = "value"
	switch valueType {
	case typeUint8:
		return number[uint8](r, what)
	case typeInt8:
		return number[int8](r, what)
	case typeUint16:
		return number[uint16](r, what)
	case typeInt16:
		return number[int16](r, what)
	case typeUint32:
		return number[uint32](r, what)
	case typeInt32:
		return number[int32](r, what)
	case typeUint64:
		return number[uint64](r, what)
	case typeInt64:
		return number[int64](r, what)
	case typeFloat32:
		return number[float32](r, what)
	case typeFloat64:
		return number[float64](r, what)
	case typeBool:
		v, err := readBools(r, 1)
		if err != nil {
			return nil, err
		}
		return v[0], nil
	case typeString:
		return r.str("string")
	case typeArray:
		return readArray(r, depth)
	}
	return nil, fmt.Errorf("value type %d at offset %d is unknown; the types are 0 to %d", valueType, r.pos-4, typeFloat64)
}

func readArray(r *reader, depth int) (any, error) {
	const what = "array elements"
	elementType, err := r.u32("array element type")
	if err != nil {
		return nil, err
	}
	at := r.pos - 4
	n, err := r.u64("array length")
	if err != nil {
		return nil, err
	}
	switch elementType {
	case typeUint8:
		return numbers[uint8](r, n, what)
	case typeInt8:
		return numbers[int8](r, n, what)
	case typeUint16:
		return numbers[uint16](r, n, what)
	case typeInt16:
		return numbers[int16](r, n, what)
	case typeUint32:
		return numbers[uint32](r, n, what)
	case typeInt32:
		return numbers[int32](r, n, what)
	case typeUint64:
		return numbers[uint64](r, n, what)
	case typeInt64:
		return numbers[int64](r, n, what)
	case typeFloat32:
		return numbers[float32](r, n, what)
	case typeFloat64:
		return numbers[float64](r, n, what)
	case typeBool:
		return readBools(r, n)
	case typeString:
		return readStrings(r, n)
	case typeArray:
		return readNested(r, n, depth)
	}
	return nil, fmt.Errorf("array element type %d at offset %d is unknown; the types are 0 to %d", elementType, at, typeFloat64)
}

func readBools(r *reader, n uint64) ([]bool, error) {
	b, err := r.bytes(n, "bools")
	if err != nil {
		return nil, err
	}
	values := make([]bool, n)
	for i, v := range b {
		if v > 1 {
			return nil, fmt.Errorf("bool %d is the byte %d; it must be 0 or 1", i, v)
		}
		values[i] = v == 1
	}
	return values, nil
}

func readStrings(r *reader, n uint64) ([]string, error) {
	if err := r.need(n, minString, "count of strings"); err != nil {
		return nil, err
	}
	values := make([]string, 0, min(n, maxAhead))
	for i := range n {
		v, err := r.str("string")
		if err != nil {
			return nil, fmt.Errorf("array element %d of %d: %w", i, n, err)
		}
		values = append(values, v)
	}
	return values, nil
}

func readNested(r *reader, n uint64, depth int) ([]any, error) {
	if depth+1 >= maxDepth {
		return nil, errors.New("arrays are nested too deeply")
	}
	if err := r.need(n, minArray, "count of arrays"); err != nil {
		return nil, err
	}
	values := make([]any, 0, min(n, maxAhead))
	for i := range n {
		v, err := readArray(r, depth+1)
		if err != nil {
			return nil, fmt.Errorf("array element %d of %d: %w", i, n, err)
		}
		values = append(values, v)
	}
	return values, nil
}
