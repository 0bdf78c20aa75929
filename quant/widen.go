package quant

import (
	"encoding/binary"
	"math"

	"github.com/gomlx/compute/dtypes"
)

// widener returns the function that reads len(dst) little-endian values of dtype into float32.
func widener(dtype dtypes.DType) func(dst []float32, raw []byte) {
	switch dtype {
	case dtypes.BFloat16:
		return widenBF16
	case dtypes.Float16:
		return widenF16
	}
	return widenF32
}

func widenF32(dst []float32, raw []byte) {
	raw = raw[:4*len(dst)]
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
}

func widenBF16(dst []float32, raw []byte) {
	raw = raw[:2*len(dst)]
	for i := range dst {
		dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(raw[2*i:])) << 16)
	}
}

func widenF16(dst []float32, raw []byte) {
	raw = raw[:2*len(dst)]
	for i := range dst {
		dst[i] = fromF16(binary.LittleEndian.Uint16(raw[2*i:]))
	}
}

// fromF16 reads the 15 bits below the sign as a float32 with the wrong exponent bias, and mends it by a multiplication,
// which also normalizes subnormals. Infinity and NaN keep being that.
func fromF16(h uint16) float32 {
	magnitude := math.Float32frombits(uint32(h&0x7fff)<<13) * 0x1p112
	bits := math.Float32bits(magnitude)
	if h&0x7c00 == 0x7c00 {
		bits = infBits | uint32(h&0x3ff)<<13
	}
	return math.Float32frombits(bits | uint32(h&0x8000)<<16)
}

// rounder returns the function that rounds a float32 to dtype, ties to even, and widens it again.
func rounder(dtype dtypes.DType) func(float32) float32 {
	switch dtype {
	case dtypes.BFloat16:
		return roundBF16
	case dtypes.Float16:
		return roundF16
	}
	return func(x float32) float32 { return x }
}

// roundBF16 rounds a finite x; beyond the largest bfloat16 that is infinity.
func roundBF16(x float32) float32 {
	bits := math.Float32bits(x)
	bits += 0x7fff + bits>>16&1
	return math.Float32frombits(bits &^ 0xffff)
}

// roundF16 rounds a finite x to a multiple of its float16 ulp, 2^-24 for subnormals; from 65520 on that is infinity.
func roundF16(x float32) float32 {
	magnitude := math.Float32frombits(math.Float32bits(x) &^ (1 << 31))
	if magnitude >= 65520 {
		magnitude = float32(math.Inf(1))
	} else {
		// Adding a power of two whose float32 ulp is x's float16 ulp rounds x; taking it off again is exact.
		exponent := max(math.Float32bits(magnitude)>>23, 127-14) // biased
		big := math.Float32frombits((exponent + 13) << 23)
		magnitude = (magnitude + big) - big
	}
	return math.Float32frombits(math.Float32bits(magnitude) | math.Float32bits(x)&(1<<31))
}
