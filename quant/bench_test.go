package quant

import (
	"testing"

	"github.com/gomlx/compute/dtypes"
)

const benchSize = 1 << 24 // 64 MiB of float32

func BenchmarkQuantize4Bit(b *testing.B) {
	x := generate("normal", 1, benchSize, 0.02)
	for _, qt := range []QuantType{NF4, FP4} {
		for _, double := range []bool{false, true} {
			name := string(qt)
			if double {
				name += "+double"
			}
			b.Run(name, func(b *testing.B) {
				b.SetBytes(4 * benchSize)
				for b.Loop() {
					if _, _, err := Quantize4Bit(x, qt, 64, double); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// Bytes are of the float32 values, also where the input has two bytes a value.
func BenchmarkQuantize4BitRaw(b *testing.B) {
	x := generate("normal", 1, benchSize, 0.02)
	for _, dtype := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16, dtypes.Float16} {
		raw := narrow(x, dtype)
		b.Run(dtype.String(), func(b *testing.B) {
			b.SetBytes(4 * benchSize)
			for b.Loop() {
				if _, _, err := Quantize4BitRaw(raw, dtype, []int{benchSize / 4096, 4096}, NF4, 64, true); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDequantize4Bit(b *testing.B) {
	packed, state, err := Quantize4Bit(generate("normal", 1, benchSize, 0.02), NF4, 64, true)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(4 * benchSize)
	for b.Loop() {
		if _, err := Dequantize4Bit(packed, state); err != nil {
			b.Fatal(err)
		}
	}
}

// Bytes are of the codes.
func BenchmarkHalfPlanes(b *testing.B) {
	packed := make([]byte, benchSize/2)
	b.Run("to", func(b *testing.B) {
		b.SetBytes(benchSize / 2)
		for b.Loop() {
			HalfPlanes(packed)
		}
	})
	b.Run("from", func(b *testing.B) {
		b.SetBytes(benchSize / 2)
		for b.Loop() {
			FromHalfPlanes(packed)
		}
	})
}

func BenchmarkQuantizeInt8(b *testing.B) {
	x := generate("normal", 1, benchSize, 0.02)
	for _, dtype := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16, dtypes.Float16} {
		raw := narrow(x, dtype)
		b.Run(dtype.String(), func(b *testing.B) {
			b.SetBytes(4 * benchSize)
			for b.Loop() {
				if _, err := QuantizeInt8Raw(raw, dtype, []int{benchSize / 4096, 4096}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkQuantizeBlockwise(b *testing.B) {
	x := generate("normal", 1, benchSize, 0.02)
	b.SetBytes(4 * benchSize)
	for b.Loop() {
		if _, _, err := QuantizeBlockwise(x, DynamicMap(true), 256); err != nil {
			b.Fatal(err)
		}
	}
}
