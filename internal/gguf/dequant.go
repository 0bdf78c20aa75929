package gguf

import (
	"encoding/binary"

	"github.com/loris-ml/loris/internal/safetensors/floats"
)

// grain is the number of values below which decoding stays on one processor.
const grain = 1 << 16

// decoders turn one block of a quantized type into its values. Formulas: dequantize_row_* in ggml-quants.c. Products are
// rounded to float32 before anything is added (the conversions forbid fused multiply-add), as ggml's reference code does.
var decoders = map[Type]func(dst []float32, block []byte){
	Q4_0: decodeQ4_0,
	Q4_1: decodeQ4_1,
	Q8_0: decodeQ8_0,
}

// decode fills dst from raw, whose length fits; t is decodable.
func decode(dst []float32, t Type, raw []byte) error {
	block, quantized := decoders[t]
	if !quantized {
		return floats.Decode(dst, t.String(), raw)
	}
	l := layouts[t]
	floats.InParallel(len(dst)/l.elements, grain/l.elements, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			block(dst[i*l.elements:(i+1)*l.elements], raw[i*l.bytes:(i+1)*l.bytes])
		}
	})
	return nil
}

// decodeQ4_0: F16 scale d, then 32 4-bit codes, byte j holding those of values j and j+16; value = d·(code-8).
func decodeQ4_0(dst []float32, block []byte) {
	d, codes := half(block), block[2:18]
	for j, c := range codes {
		dst[j] = d * float32(int(c&15)-8)
		dst[j+16] = d * float32(int(c>>4)-8)
	}
}

// decodeQ4_1: F16 scale d and minimum m, then codes as in Q4_0; value = d·code + m.
func decodeQ4_1(dst []float32, block []byte) {
	d, m, codes := half(block), half(block[2:]), block[4:20]
	for j, c := range codes {
		dst[j] = float32(d*float32(c&15)) + m
		dst[j+16] = float32(d*float32(c>>4)) + m
	}
}

// decodeQ8_0: F16 scale d, then 32 signed bytes; value = d·byte.
func decodeQ8_0(dst []float32, block []byte) {
	d, codes := half(block), block[2:34]
	for j, c := range codes {
		dst[j] = d * float32(int8(c))
	}
}

func half(b []byte) float32 { return floats.FromF16(binary.LittleEndian.Uint16(b)) }
