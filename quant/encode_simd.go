//go:build goexperiment.simd && amd64

package quant

import (
	"math"
	"simd/archsimd"
)

// The vector forms of the loops in encode.go, for the CPUs that have AVX2. They do the same operations on the same
// float32 values, eight at a time, so the bytes are the same.

// absmaxBits returns the bits of max|x|: magnitudes order like their bits, and NaN and infinity come last.
func absmaxBits(x []float32) uint32 {
	if len(x) < 16 || !archsimd.X86.AVX2() {
		return absmaxPlain(x)
	}
	abs := archsimd.BroadcastUint32x8(1<<31 - 1)
	var m0, m1 archsimd.Uint32x8
	for ; len(x) >= 16; x = x[16:] {
		m0 = m0.Max(archsimd.LoadFloat32x8(x).ToBits().And(abs))
		m1 = m1.Max(archsimd.LoadFloat32x8(x[8:]).ToBits().And(abs))
	}
	var lanes [8]uint32
	m0.Max(m1).StoreArray(&lanes)
	archsimd.ClearAVXUpperBits()
	most := absmaxPlain(x)
	for _, m := range &lanes {
		most = max(most, m)
	}
	return most
}

// searchVectors are the boundaries of a search, level by level.
type searchVectors struct{ first, second, third, fourth archsimd.Float32x8 }

// ranks returns how many boundaries lie below each s, 0 to 15.
func (t *searchVectors) ranks(s archsimd.Float32x8) archsimd.Uint32x8 {
	var zero archsimd.Int32x8
	r := zero.Sub(s.Greater(t.first).ToInt32x8()) // a mask is -1 where it holds
	r = r.Add(r).Sub(s.Greater(t.second.Permute(r.AsUint32x8())).ToInt32x8())
	r = r.Add(r).Sub(s.Greater(t.third.Permute(r.AsUint32x8())).ToInt32x8())
	r = r.Add(r).Sub(s.Greater(t.fourth.Permute(r.AsUint32x8())).ToInt32x8())
	return r.AsUint32x8()
}

// How encodeScaled puts bytes in order: 32-bit lanes of even index first, then a 4×4 transposition in each half.
var (
	evenFirst = [8]uint32{0, 2, 4, 6, 1, 3, 5, 7}
	transpose = [32]int8{0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15}
)

// encodeScaled writes the codes of x·inverse, of even length, two to a byte.
func (c *codebook) encodeScaled(dst []byte, x []float32, inverse float32) {
	done := 0
	if len(dst) >= 32 && archsimd.X86.AVX2() {
		done = c.encodeVectors(dst, x, math.Float32bits(inverse))
	}
	c.encodePlain(dst[done:], x[2*done:], inverse)
}

// encodeVectors writes the codes of as many whole vectors as there are and returns how many bytes that is. inverse are the
// bits of a float32.
//
// It has neither scalar floats nor vectors of 128 bits: the compiler moves those between stack and registers by
// instructions that do not mix with AVX ones, and each such mixture costs more than all the rest.
func (c *codebook) encodeVectors(dst []byte, x []float32, inverse uint32) (done int) {
	t := searchVectors{
		archsimd.LoadFloat32x8Array(&c.levels[0]), archsimd.LoadFloat32x8Array(&c.levels[1]),
		archsimd.LoadFloat32x8Array(&c.levels[2]), archsimd.LoadFloat32x8Array(&c.levels[3]),
	}
	scale := archsimd.BroadcastUint32x8(inverse).AsFloat32x8()
	low32 := archsimd.BroadcastUint64x4(1<<32 - 1)
	nibble := archsimd.BroadcastUint32x8(0x0f0f0f0f).AsUint8x32()
	order, bytes := archsimd.LoadUint32x8Array(&evenFirst), archsimd.LoadInt8x32Array(&transpose)
	lowCodes, highCodes := archsimd.LoadUint8x32Array(&c.lowCodes), archsimd.LoadUint8x32Array(&c.highCodes)
	for ; len(dst)-done >= 32; done += 32 {
		x := x[2*done : 2*done+64]
		// A 64-bit lane of four has pairs of values k, 4+k, 8+k, …, 28+k: those of the first half of x in its low 32 bits, of
		// the second in its high ones.
		lanes := t.pairs(x, scale).And(low32).Or(t.pairs(x[32:], scale).ShiftAllLeft(32))
		ranks := lanes.AsUint32x8().Permute(order).AsUint8x32().PermuteOrZeroGrouped(bytes)
		first := ranks.AsUint16x16().ShiftAllRight(4).AsUint8x32().And(nibble).BitsToInt8()
		second := ranks.And(nibble).BitsToInt8()
		highCodes.PermuteOrZeroGrouped(first).Or(lowCodes.PermuteOrZeroGrouped(second)).Store(dst[done:])
	}
	archsimd.ClearAVXUpperBits()
	return done
}

// pairs returns the ranks of 32 values of x, two to a byte, the first of them in the high nibble: byte j of 64-bit lane k
// has pair 4j+k, for j up to 3; the other bytes mean nothing.
func (t *searchVectors) pairs(x []float32, scale archsimd.Float32x8) archsimd.Uint64x4 {
	r := t.ranks(archsimd.LoadFloat32x8(x).Mul(scale))
	r = r.Or(t.ranks(archsimd.LoadFloat32x8(x[8:]).Mul(scale)).ShiftAllLeft(8))
	r = r.Or(t.ranks(archsimd.LoadFloat32x8(x[16:]).Mul(scale)).ShiftAllLeft(16))
	r = r.Or(t.ranks(archsimd.LoadFloat32x8(x[24:]).Mul(scale)).ShiftAllLeft(24))
	lanes := r.AsUint64x4() // an even value's rank is 32 bits below the odd one's
	return lanes.ShiftAllLeft(4).Or(lanes.ShiftAllRight(32))
}

func widenF32(dst []float32, raw []byte) {
	raw = raw[:4*len(dst)]
	if archsimd.X86.AVX2() {
		for ; len(dst) >= 8; dst, raw = dst[8:], raw[32:] {
			archsimd.LoadUint8x32(raw).AsFloat32x8().Store(dst)
		}
		archsimd.ClearAVXUpperBits()
	}
	widenF32Plain(dst, raw)
}

func widenBF16(dst []float32, raw []byte) {
	raw = raw[:2*len(dst)]
	if archsimd.X86.AVX2() {
		for ; len(dst) >= 8; dst, raw = dst[8:], raw[16:] {
			archsimd.LoadUint8x16(raw).AsUint16x8().ExtendToUint32().ShiftAllLeft(16).AsFloat32x8().Store(dst)
		}
		archsimd.ClearAVXUpperBits()
	}
	widenBF16Plain(dst, raw)
}

// widenF16 puts the exponent and fraction of a float16 where a float32 has them and multiplies by 2^112, the difference of
// the exponents' biases, which is exact for subnormal numbers too. Infinity and NaN get the greatest exponent instead.
func widenF16(dst []float32, raw []byte) {
	raw = raw[:2*len(dst)]
	if archsimd.X86.AVX2() {
		magnitude := archsimd.BroadcastUint32x8(0x7fff)
		infinity := archsimd.BroadcastUint32x8(0x7c00)
		signBit := archsimd.BroadcastUint32x8(0x8000)
		greatest := archsimd.BroadcastUint32x8(infBits)
		rebias := archsimd.BroadcastFloat32x8(0x1p112)
		for ; len(dst) >= 8; dst, raw = dst[8:], raw[16:] {
			h := archsimd.LoadUint8x16(raw).AsUint16x8().ExtendToUint32()
			m := h.And(magnitude)
			special := m.AsInt32x8().Less(infinity.AsInt32x8()).ToInt32x8().AsUint32x8() // all ones where finite
			bits := m.ShiftAllLeft(13).AsFloat32x8().Mul(rebias).ToBits()
			bits = bits.Or(greatest.AndNot(special)).Or(h.And(signBit).ShiftAllLeft(16))
			bits.AsFloat32x8().Store(dst)
		}
		archsimd.ClearAVXUpperBits()
	}
	widenF16Plain(dst, raw)
}
