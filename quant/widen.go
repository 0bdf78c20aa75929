package quant

import (
	"encoding/binary"
	"math"

	"github.com/gomlx/compute/dtypes"

	formats "github.com/loris-ml/loris/internal/safetensors/floats"
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

// widenF32Plain, widenBF16Plain and widenF16Plain are without vector instructions what the names without Plain are.
func widenF32Plain(dst []float32, raw []byte) {
	raw = raw[:4*len(dst)]
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
}

func widenBF16Plain(dst []float32, raw []byte) {
	raw = raw[:2*len(dst)]
	for i := range dst {
		dst[i] = formats.FromBF16(binary.LittleEndian.Uint16(raw[2*i:]))
	}
}

func widenF16Plain(dst []float32, raw []byte) {
	raw = raw[:2*len(dst)]
	for i := range dst {
		dst[i] = formats.FromF16(binary.LittleEndian.Uint16(raw[2*i:]))
	}
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

func roundBF16(x float32) float32 { return formats.FromBF16(formats.ToBF16(x)) }
func roundF16(x float32) float32  { return formats.FromF16(formats.ToF16(x)) }
