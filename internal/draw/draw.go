// Package draw makes random numbers inside graphs out of what they are for: the same key and element give the same draw
// in every program, on every backend, in any order, so that a backward pass can draw again what its forward drew. It is
// for dropout; nothing in it is fit for cryptography, and there is no state.
//
// Start reading at [Keep].
package draw

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/support/exceptions"
)

// Keep says which elements survive dropout of rate p, [0, 1): bits, of any shape, are uniform uint32, and an element is
// kept where they are at least Threshold(p). It panics for another dtype or rate.
func Keep(bits *Node, p float64) *Node {
	if bits.DType() != dtypes.Uint32 || !(p >= 0 && p < 1) {
		exceptions.Panicf("draw.Keep: bits of %s and rate %g; use Uint32 and a rate in [0, 1)", bits.DType(), p)
	}
	return GreaterOrEqual(bits, Const(bits.Graph(), Threshold(p)))
}

// Threshold is the least draw that dropout of rate p, [0, 1), keeps: p in multiples of 2⁻¹⁵, so that a draw's upper 15 bits decide.
func Threshold(p float64) uint32 {
	return uint32(min(math.Round(p*(1<<15)), 1<<15-1)) << 17
}

// Mix scrambles 32 bits, x uint32 of any shape: the finalizer of MurmurHash3, a bijection in which every input bit
// reaches every output bit.
func Mix(x *Node) *Node {
	g := x.Graph()
	x = BitwiseXor(x, BitwiseShiftRightLogicalScalar(x, uint32(16)))
	x = Mul(x, Const(g, uint32(0x85ebca6b)))
	x = BitwiseXor(x, BitwiseShiftRightLogicalScalar(x, uint32(13)))
	x = Mul(x, Const(g, uint32(0xc2b2ae35)))
	return BitwiseXor(x, BitwiseShiftRightLogicalScalar(x, uint32(16)))
}

// Columns are uniform draws, uint32 [len(keys), n], for n columns of each row whose stream a key of keys, uint32 [rows],
// is: of eight columns, h = Mix(key + column/8) serves four, turned left by 17, 1, 25 and 9 bits, and h·0x9e3779b1, xor that
// shifted right by 16 bits, the others. The upper bytes of four, which decide what Keep says but for one case in 256, have
// no bit in common. A GPU finds the draws of two columns, 15 bits each, in the halves of one word.
func Columns(keys *Node, n int) *Node {
	g := keys.Graph()
	column := Iota(g, shapes.Make(dtypes.Uint32, 1, n), 1)
	h := Mix(Add(InsertAxes(keys, 1), BitwiseShiftRightLogicalScalar(column, uint32(3))))
	again := Mul(h, Const(g, uint32(0x9e3779b1)))
	again = BitwiseXor(again, BitwiseShiftRightLogicalScalar(again, uint32(16)))
	h = Where(BroadcastToShape(Equal(BitwiseAnd(column, Const(g, uint32(4))), Const(g, uint32(0))), h.Shape()), h, again)
	number := BroadcastToShape(BitwiseAnd(column, Const(g, uint32(3))), h.Shape())
	var draws *Node
	for i, left := range []uint32{17, 1, 25, 9} {
		turned := BitwiseOr(BitwiseShiftLeftScalar(h, left), BitwiseShiftRightLogicalScalar(h, 32-left))
		if i > 0 {
			turned = Where(Equal(number, Const(g, uint32(i))), turned, draws)
		}
		draws = turned
	}
	return draws
}
