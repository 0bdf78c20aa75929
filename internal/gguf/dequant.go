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
	Q4_0: decodeQ4_0, Q4_1: decodeQ4_1, Q5_0: decodeQ5_0, Q5_1: decodeQ5_1, Q8_0: decodeQ8_0, IQ4_NL: decodeIQ4_NL,
	Q2_K: decodeQ2_K, Q3_K: decodeQ3_K, Q4_K: decodeQ4_K, Q5_K: decodeQ5_K, Q6_K: decodeQ6_K,
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

// decodeQ5_0: F16 scale d, 32 fifth bits, then codes as in Q4_0; value = d·(code-16).
func decodeQ5_0(dst []float32, block []byte) {
	d, fifth, codes := half(block), binary.LittleEndian.Uint32(block[2:]), block[6:22]
	for j, c := range codes {
		dst[j] = d * float32(int(c&15|byte(fifth>>j&1)<<4)-16)
		dst[j+16] = d * float32(int(c>>4|byte(fifth>>(j+16)&1)<<4)-16)
	}
}

// decodeQ5_1: F16 scale d and minimum m, then as Q5_0; value = d·code + m.
func decodeQ5_1(dst []float32, block []byte) {
	d, m, fifth, codes := half(block), half(block[2:]), binary.LittleEndian.Uint32(block[4:]), block[8:24]
	for j, c := range codes {
		dst[j] = float32(d*float32(c&15|byte(fifth>>j&1)<<4)) + m
		dst[j+16] = float32(d*float32(c>>4|byte(fifth>>(j+16)&1)<<4)) + m
	}
}

// decodeQ8_0: F16 scale d, then 32 signed bytes; value = d·byte.
func decodeQ8_0(dst []float32, block []byte) {
	d, codes := half(block), block[2:34]
	for j, c := range codes {
		dst[j] = d * float32(int8(c))
	}
}

// codebookIQ4_NL are the values of IQ4_NL's codes, kvalues_iq4nl in ggml.
var codebookIQ4_NL = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

// decodeIQ4_NL: as Q4_0, with codes that stand for numbers of a table; value = d·table[code].
func decodeIQ4_NL(dst []float32, block []byte) {
	d, codes := half(block), block[2:18]
	for j, c := range codes {
		dst[j] = d * codebookIQ4_NL[c&15]
		dst[j+16] = d * codebookIQ4_NL[c>>4]
	}
}

func half(b []byte) float32 { return floats.FromF16(binary.LittleEndian.Uint16(b)) }
