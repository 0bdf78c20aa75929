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
// is: Mix(key + column/2), turned by 16 bits in odd columns. So one hash serves two columns, whose upper halves, which
// decide what Keep says but for one case in 65536, have no bit in common.
func Columns(keys *Node, n int) *Node {
	g := keys.Graph()
	column := Iota(g, shapes.Make(dtypes.Uint32, 1, n), 1)
	h := Mix(Add(InsertAxes(keys, 1), BitwiseShiftRightLogicalScalar(column, uint32(1))))
	turned := BitwiseOr(BitwiseShiftLeftScalar(h, uint32(16)), BitwiseShiftRightLogicalScalar(h, uint32(16)))
	odd := Equal(BitwiseAnd(column, Const(g, uint32(1))), Const(g, uint32(1)))
	return Where(BroadcastToShape(odd, shapes.Make(dtypes.Bool, h.Shape().Dimensions...)), turned, h)
}
