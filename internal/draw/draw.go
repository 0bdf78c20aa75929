// Package draw makes random numbers inside graphs out of what they are for: the same key and element give the same draw
// in every program, on every backend, in any order, so that a backward pass can draw again what its forward drew. It is
// for dropout; nothing in it is fit for cryptography, and there is no state.
//
// Start reading at [Keep].
package draw

import (
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/support/exceptions"
)

// Keep says which elements survive dropout of rate p, [0, 1): bits, of any shape, are uniform uint32, and an element is
// kept where they are at least p·2³². It panics for another dtype or rate.
func Keep(bits *Node, p float64) *Node {
	if bits.DType() != dtypes.Uint32 || !(p >= 0 && p < 1) {
		exceptions.Panicf("draw.Keep: bits of %s and rate %g; use Uint32 and a rate in [0, 1)", bits.DType(), p)
	}
	return GreaterOrEqual(bits, Const(bits.Graph(), uint32(p*(1<<32))))
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
// is: Mix(key + column/4), turned left by 8 bits for each column past a multiple of four. So one hash serves four columns,
// whose upper bytes, which decide what Keep says but for one case in 256, have no bit in common.
func Columns(keys *Node, n int) *Node {
	g := keys.Graph()
	column := Iota(g, shapes.Make(dtypes.Uint32, 1, n), 1)
	h := Mix(Add(InsertAxes(keys, 1), BitwiseShiftRightLogicalScalar(column, uint32(2))))
	number := BroadcastToShape(BitwiseAnd(column, Const(g, uint32(3))), h.Shape())
	draws := h
	for i := range 3 {
		left := uint32(8 * (i + 1))
		turned := BitwiseOr(BitwiseShiftLeftScalar(h, left), BitwiseShiftRightLogicalScalar(h, 32-left))
		draws = Where(Equal(number, Const(g, uint32(i+1))), turned, draws)
	}
	return draws
}
