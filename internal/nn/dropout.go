package nn

import (
	"hash/fnv"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// dropRate is the probability with which inputs of the adapter are dropped in this program.
func (l *Layer) dropRate(a boundAdapter) float64 {
	if l.batch.RowKeys == nil {
		return 0
	}
	return a.Dropout
}

// drop zeroes elements of x [B, S, in] with the adapter's probability p and scales the others by 1/(1-p). Which ones
// follows from the row's key, the layer, the linear and the element alone: forward and backward programs, and any
// division of the rows among devices, draw the same.
func (l *Layer) drop(x *Node, a boundAdapter) *Node {
	p := l.dropRate(a)
	if p == 0 {
		return x
	}
	g, d := x.Graph(), x.Shape().Dimensions
	h := fnv.New32a()
	h.Write([]byte(a.Linear))
	u32 := func(v uint32) *Node { return Const(g, v) }
	key := mix(BitwiseXor(l.batch.RowKeys, mix(BitwiseXor(l.index, u32(h.Sum32())))))
	element := Add(Mul(Iota(g, shapes.Make(dtypes.Uint32, 1, d[1], d[2]), 1), u32(uint32(d[2]))),
		Iota(g, shapes.Make(dtypes.Uint32, 1, d[1], d[2]), 2))
	bits := mix(Add(mix(element), Reshape(key, d[0], 1, 1)))
	keep := GreaterOrEqual(bits, u32(uint32(p*(1<<32))))
	scaled := MulScalar(x, 1/(1-p))
	return Where(keep, scaled, ZerosLike(scaled))
}

// mix scrambles 32 bits: the finalizer of MurmurHash3, a bijection in which every input bit reaches every output bit.
func mix(x *Node) *Node {
	g := x.Graph()
	x = BitwiseXor(x, BitwiseShiftRightLogicalScalar(x, uint32(16)))
	x = Mul(x, Const(g, uint32(0x85ebca6b)))
	x = BitwiseXor(x, BitwiseShiftRightLogicalScalar(x, uint32(13)))
	x = Mul(x, Const(g, uint32(0xc2b2ae35)))
	return BitwiseXor(x, BitwiseShiftRightLogicalScalar(x, uint32(16)))
}
