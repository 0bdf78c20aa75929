package safetensors

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/loris-ml/loris/internal/safetensors/floats"
)

// Info describes a tensor in a file.
type Info struct {
	Name  string
	DType string // as in the file: "F32", "F16", "BF16", "U8", "I8", "I32", "I64", ...
	Shape []int  // outermost dimension first, row-major; empty for a scalar
	Path  string // the file that holds it
	// Offset is where the data start, in bytes from the start of the file; Size is their length in bytes.
	Offset, Size int64
}

// Elements returns the number of elements.
func (i Info) Elements() int {
	n := 1
	for _, d := range i.Shape {
		n *= d
	}
	return n
}

// dtype is what the format knows of an element type. The order of this list is the library's: files hold tensors by
// descending rank, then by name.
type dtype struct {
	name string
	bits uint64
}

var dtypes = []dtype{
	{"BOOL", 8}, {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8}, {"I8", 8},
	{"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
	{"I16", 16}, {"U16", 16}, {"F16", 16}, {"BF16", 16}, {"I32", 32}, {"U32", 32}, {"F32", 32},
	{"C64", 64}, {"F64", 64}, {"I64", 64}, {"U64", 64},
}

// rank returns the place of a dtype in dtypes, or -1.
func rank(name string) int {
	for i, d := range dtypes {
		if d.name == name {
			return i
		}
	}
	return -1
}

// byteSize returns the bytes of a tensor, or what is wrong with its dtype or shape.
func byteSize(dtypeName string, shape []int) (int64, error) {
	r := rank(dtypeName)
	if r < 0 {
		return 0, fmt.Errorf("dtype %q is unknown; safetensors 0.8 has BOOL, U8…U64, I8…I64, F4…F64, BF16 and C64", dtypeName)
	}
	total := dtypes[r].bits
	for _, d := range shape {
		if d < 0 {
			return 0, fmt.Errorf("shape %v has a negative dimension", shape)
		}
		hi, lo := bits.Mul64(total, uint64(d))
		if hi != 0 || lo > math.MaxInt64 {
			return 0, fmt.Errorf("shape %v of %s has too many elements", shape, dtypeName)
		}
		total = lo
	}
	if total%8 != 0 {
		return 0, fmt.Errorf("shape %v of %s takes %d bits, no whole number of bytes", shape, dtypeName, total)
	}
	return int64(total / 8), nil
}

// Float32s returns the elements of a raw tensor of dtype F64, F32, F16 or BF16 as float32; other dtypes are an error.
func Float32s(dtype string, raw []byte) ([]float32, error) {
	size, ok := floats.Size(dtype)
	if !ok {
		size = 1 // Decode says what is wrong
	}
	values := make([]float32, len(raw)/size)
	if err := floats.Decode(values, dtype, raw); err != nil {
		return nil, err
	}
	return values, nil
}
