// Package floats converts between float32 and the float formats that model files store: F64, F32, F16 (IEEE 754
// binary16) and BF16 (the upper half of a float32), all little endian, named as in safetensors.
//
// Widening is exact. Narrowing rounds to nearest, ties to even, as torch does: too large values become infinite, small
// ones subnormal, and every NaN becomes the format's quiet NaN. Long slices are converted on all processors.
//
// Quantized formats are not here: see the packages gguf and quant. Start at [Decode] and [Encode].
package floats

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"sync"
	"unsafe"
)

// grain is the number of elements below which a second goroutine costs more than it saves.
const grain = 1 << 16

// Size returns the bytes of one element of dtype, and false where dtype is none of F64, F32, F16, BF16.
func Size(dtype string) (int, bool) {
	switch dtype {
	case "F64":
		return 8, true
	case "F32":
		return 4, true
	case "F16", "BF16":
		return 2, true
	}
	return 0, false
}

// Decode fills dst from raw, which holds exactly len(dst) elements of dtype.
func Decode(dst []float32, dtype string, raw []byte) error {
	size, ok := Size(dtype)
	if !ok {
		return unsupported(dtype)
	}
	if len(raw)%size != 0 || len(raw)/size != len(dst) {
		return notElements(len(raw), len(dst), dtype, size)
	}
	InParallel(len(dst), grain, func(lo, hi int) {
		decode(dst[lo:hi], dtype, raw[lo*size:hi*size])
	})
	return nil
}

func decode(dst []float32, dtype string, raw []byte) {
	switch dtype {
	case "F64":
		for i := range dst {
			dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(raw[8*i:])))
		}
	case "F32":
		if b, ok := Bytes(dst); ok {
			copy(b, raw)
			return
		}
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
	case "F16":
		for i := range dst {
			dst[i] = FromF16(binary.LittleEndian.Uint16(raw[2*i:]))
		}
	case "BF16":
		for i := range dst {
			dst[i] = FromBF16(binary.LittleEndian.Uint16(raw[2*i:]))
		}
	}
}

// Encode returns values as raw elements of dtype.
func Encode(dtype string, values []float32) ([]byte, error) {
	size, ok := Size(dtype)
	if !ok {
		return nil, unsupported(dtype)
	}
	raw := make([]byte, len(values)*size)
	return raw, EncodeTo(raw, dtype, values)
}

// EncodeTo fills dst, which holds exactly len(values) elements of dtype, with values.
func EncodeTo(dst []byte, dtype string, values []float32) error {
	size, ok := Size(dtype)
	if !ok {
		return unsupported(dtype)
	}
	if len(dst) != len(values)*size {
		return notElements(len(dst), len(values), dtype, size)
	}
	InParallel(len(values), grain, func(lo, hi int) {
		encode(dst[lo*size:hi*size], dtype, values[lo:hi])
	})
	return nil
}

func notElements(bytes, elements int, dtype string, size int) error {
	return fmt.Errorf("%d bytes are not %d elements of %s, which has %d bytes each", bytes, elements, dtype, size)
}

func encode(raw []byte, dtype string, values []float32) {
	switch dtype {
	case "F64":
		for i, v := range values {
			binary.LittleEndian.PutUint64(raw[8*i:], math.Float64bits(float64(v)))
		}
	case "F32":
		if b, ok := Bytes(values); ok {
			copy(raw, b)
			return
		}
		for i, v := range values {
			binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(v))
		}
	case "F16":
		for i, v := range values {
			binary.LittleEndian.PutUint16(raw[2*i:], ToF16(v))
		}
	case "BF16":
		for i, v := range values {
			binary.LittleEndian.PutUint16(raw[2*i:], ToBF16(v))
		}
	}
}

func unsupported(dtype string) error {
	return fmt.Errorf("dtype %q does not convert to or from float32; F64, F32, F16 and BF16 do", dtype)
}

// FromBF16 returns the value of a bfloat16.
func FromBF16(bits uint16) float32 { return math.Float32frombits(uint32(bits) << 16) }

// ToBF16 rounds f to bfloat16.
func ToBF16(f float32) uint16 {
	b := math.Float32bits(f)
	if b&0x7fffffff > 0x7f800000 {
		return 0x7fc0 // the carry of the rounding could turn a NaN into an infinity
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// FromF16 returns the value of an IEEE 754 binary16: 1 sign, 5 exponent (bias 15) and 10 mantissa bits.
func FromF16(bits uint16) float32 {
	// Normal numbers, nearly all there are, come first and need one test.
	if magnitude := uint32(bits) & 0x7fff; magnitude-0x400 < 0x7c00-0x400 {
		return math.Float32frombits(uint32(bits&0x8000)<<16 | (magnitude<<13 + (127-15)<<23))
	}
	return fromF16Rare(bits)
}

func fromF16Rare(bits uint16) float32 {
	sign, mantissa := uint32(bits&0x8000)<<16, uint32(bits&0x3ff)
	if bits&0x7c00 == 0 { // zero and subnormal: a multiple of 2^-24
		return math.Float32frombits(sign | math.Float32bits(float32(mantissa)*0x1p-24))
	}
	return math.Float32frombits(sign | 0x7f800000 | mantissa<<13) // infinity and NaN, which keeps its payload
}

// ToF16 rounds f to IEEE 754 binary16.
func ToF16(f float32) uint16 {
	b := math.Float32bits(f)
	if magnitude := b & 0x7fffffff; magnitude-minNormalF16 < endF16-minNormalF16 {
		return uint16(b>>16)&0x8000 | uint16((magnitude+0xfff+magnitude>>13&1-(127-15)<<23)>>13)
	}
	return toF16Rare(b)
}

const (
	minNormalF16 = 0x38800000 // 2^-14
	endF16       = 0x47800000 // 2^16; from 65520 on the carry of the rounding makes an infinity
)

func toF16Rare(b uint32) uint16 {
	sign, magnitude := uint16(b>>16)&0x8000, b&0x7fffffff
	switch {
	case magnitude > 0x7f800000:
		return sign | 0x7e00
	case magnitude >= endF16:
		return sign | 0x7c00
	}
	// Subnormal: adding 1/2, whose last place is 2^-24, does the rounding.
	return sign | uint16(math.Float32bits(math.Float32frombits(magnitude)+0.5)-math.Float32bits(0.5))
}

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// Bytes returns the memory of values as F32 elements, without a copy; false where the machine is big endian.
func Bytes(values []float32) ([]byte, bool) {
	if !littleEndian {
		return nil, false
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(values))), 4*len(values)), true
}

// InParallel calls fn on ranges [lo, hi) that together are [0, n), on as many processors as there are, in ranges of at
// least grain elements where n has that many. It returns when all calls have.
func InParallel(n, grain int, fn func(lo, hi int)) {
	workers := min(runtime.GOMAXPROCS(0), n/grain)
	if workers <= 1 {
		fn(0, n)
		return
	}
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() { fn(int(int64(n)*int64(w)/int64(workers)), int(int64(n)*int64(w+1)/int64(workers))) })
	}
	group.Wait()
}
