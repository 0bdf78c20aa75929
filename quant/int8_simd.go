//go:build goexperiment.simd && amd64

package quant

import (
	"math"
	"simd/archsimd"
)

// roundHalves rounds x to float16, ties to even, and widens it again. dst may be x.
func roundHalves(dst, x []float32) {
	done := 0
	if archsimd.X86.AVX2() {
		done = roundHalvesVectors(dst, x)
	}
	roundHalvesPlain(dst[done:], x[done:])
}

// Float32 bits of float16's least normal number, of the least magnitude that does not fit, 2^16, and of 3/4, whose last
// bit is float16's least number.
const (
	minNormalHalf = 0x38800000
	beyondHalf    = 0x47800000
	threeQuarters = 0x3f400000
)

func roundHalvesVectors(dst, x []float32) (done int) {
	magnitude := archsimd.BroadcastUint32x8(1<<31 - 1)
	one, half := archsimd.BroadcastUint32x8(1), archsimd.BroadcastUint32x8(1<<12-1)
	fraction := archsimd.BroadcastUint32x8(1<<13 - 1) // what a float32 has beyond a float16
	magic := archsimd.BroadcastUint32x8(threeQuarters).AsFloat32x8()
	minNormal, beyond := archsimd.BroadcastInt32x8(minNormalHalf), archsimd.BroadcastInt32x8(beyondHalf-1)
	infinity := archsimd.BroadcastUint32x8(infBits)
	for ; len(x)-done >= 8; done += 8 {
		bits := archsimd.LoadFloat32x8(x[done:]).ToBits()
		m := bits.And(magnitude)
		odd := m.ShiftAllRight(13).And(one)
		normal := m.Add(half).Add(odd).AndNot(fraction)
		subnormal := m.AsFloat32x8().Add(magic).Sub(magic).ToBits()
		small := minNormal.Greater(m.AsInt32x8()).ToInt32x8().AsUint32x8()
		rounded := normal.AndNot(small).Or(subnormal.And(small))
		large := rounded.AsInt32x8().Greater(beyond).ToInt32x8().AsUint32x8()
		nan := m.AsInt32x8().Greater(infinity.AsInt32x8()).ToInt32x8().AsUint32x8()
		rounded = rounded.AndNot(large).Or(infinity.And(large)).Or(nan.And(magnitude))
		rounded.Or(bits.AndNot(magnitude)).AsFloat32x8().Store(dst[done:])
	}
	archsimd.ClearAVXUpperBits()
	return done
}

// encodeInt8 writes the codes of a row, x·scale rounded to integers.
func encodeInt8(dst []int8, x []float32, scale float32) {
	done := 0
	if archsimd.X86.AVX2() {
		done = encodeInt8Vectors(dst, x, math.Float32bits(scale))
	}
	encodeInt8Plain(dst[done:], x[done:], scale)
}

// How encodeInt8Vectors puts bytes in order: a 4×4 transposition in each half (transpose), then the halves' 32-bit lanes in
// turn.
var inTurn = [8]uint32{0, 4, 1, 5, 2, 6, 3, 7}

// encodeInt8Vectors writes the codes of as many whole vectors as there are and returns how many that is. scale are the bits
// of a float32; see encodeVectors.
func encodeInt8Vectors(dst []int8, x []float32, scale uint32) (done int) {
	factor := archsimd.BroadcastUint32x8(scale).AsFloat32x8()
	magic := archsimd.BroadcastUint32x8(roundMagicBits).AsFloat32x8()
	low := archsimd.BroadcastUint32x8(0xff)
	bytes, order := archsimd.LoadInt8x32Array(&transpose), archsimd.LoadUint32x8Array(&inTurn)
	for ; len(dst)-done >= 32; done += 32 {
		x := x[done : done+32]
		// Byte j of a 32-bit lane is the code of that lane's value in the j-th vector of eight.
		r := archsimd.LoadFloat32x8(x).Mul(factor).Add(magic).ToBits().And(low)
		r = r.Or(archsimd.LoadFloat32x8(x[8:]).Mul(factor).Add(magic).ToBits().And(low).ShiftAllLeft(8))
		r = r.Or(archsimd.LoadFloat32x8(x[16:]).Mul(factor).Add(magic).ToBits().And(low).ShiftAllLeft(16))
		r = r.Or(archsimd.LoadFloat32x8(x[24:]).Mul(factor).Add(magic).ToBits().ShiftAllLeft(24))
		r.AsUint8x32().PermuteOrZeroGrouped(bytes).AsUint32x8().Permute(order).AsInt8x32().Store(dst[done:])
	}
	archsimd.ClearAVXUpperBits()
	return done
}

const roundMagicBits = 0x4b400000 // of the float32 roundMagic
