package gguf

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/loris-ml/loris/internal/safetensors/floats"
)

// encoders turn the values of one block into its bytes, as quantize_row_*_ref in ggml-quants.c does.
var encoders = map[Type]func(block []byte, values []float32){
	Q4_0: encodeQ4_0,
	Q8_0: encodeQ8_0,
}

// BlockSize is the number of values that a block of the type holds; rows are whole blocks. 0 for unknown types.
func (t Type) BlockSize() int { return layouts[t].elements }

// Encode returns values as F32, F16, BF16, Q8_0 or Q4_0, rounded to nearest as ggml does. A value that the type cannot
// hold (NaN and infinities, and what is too large for F16) is an error that tells its index.
func Encode(t Type, values []float32) ([]byte, error) {
	if t != F32 {
		if err := checkRange(t, values); err != nil {
			return nil, err
		}
	}
	encode, quantized := encoders[t]
	if !quantized {
		return floats.Encode(t.String(), values)
	}
	l := layouts[t]
	if len(values)%l.elements != 0 {
		return nil, fmt.Errorf("%d values are no multiple of the %d in a block of %s", len(values), l.elements, t)
	}
	raw := make([]byte, len(values)/l.elements*l.bytes)
	floats.InParallel(len(values)/l.elements, grain/l.elements, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			encode(raw[i*l.bytes:(i+1)*l.bytes], values[i*l.elements:(i+1)*l.elements])
		}
	})
	return raw, nil
}

// checkRange reports what would become an infinity, as a value or as the scale of a block.
func checkRange(t Type, values []float32) error {
	limit := map[Type]float32{BF16: math.Float32frombits(0x7f7f8000), F16: 65520, Q8_0: 65520 * 127, Q4_0: 65520 * 8}[t]
	for i, v := range values {
		if !(v > -limit && v < limit) { // also NaN
			return fmt.Errorf("value %d is %v, which %s cannot hold; choose another type, F32 holds all", i, v, t)
		}
	}
	return nil
}

// encodeQ8_0: the largest magnitude becomes 127.
func encodeQ8_0(block []byte, values []float32) {
	largest := float32(0)
	for _, v := range values {
		largest = max(largest, float32(math.Abs(float64(v))))
	}
	d := largest / 127
	inverse := float32(0)
	if d != 0 {
		inverse = 1 / d
	}
	binary.LittleEndian.PutUint16(block, floats.ToF16(d))
	for i, v := range values {
		block[2+i] = byte(int8(math.Round(float64(v * inverse))))
	}
}

// encodeQ4_0: the value of the largest magnitude, the first of several, becomes code 0, which stands for -8.
func encodeQ4_0(block []byte, values []float32) {
	largest, extreme := float32(0), float32(0)
	for _, v := range values {
		if a := float32(math.Abs(float64(v))); a > largest {
			largest, extreme = a, v
		}
	}
	d := extreme / -8
	inverse := float32(0)
	if d != 0 {
		inverse = 1 / d
	}
	binary.LittleEndian.PutUint16(block, floats.ToF16(d))
	code := func(v float32) byte { return min(15, byte(float32(v*inverse)+8.5)) }
	for j := range 16 {
		block[2+j] = code(values[j]) | code(values[j+16])<<4
	}
}
