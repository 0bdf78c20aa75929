package nn

import (
	"hash/fnv"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/draw"
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
	key := draw.Mix(BitwiseXor(l.batch.RowKeys, draw.Mix(BitwiseXor(l.index, u32(h.Sum32())))))
	element := Add(Mul(Iota(g, shapes.Make(dtypes.Uint32, 1, d[1], d[2]), 1), u32(uint32(d[2]))),
		Iota(g, shapes.Make(dtypes.Uint32, 1, d[1], d[2]), 2))
	bits := draw.Mix(Add(draw.Mix(element), Reshape(key, d[0], 1, 1)))
	keep := draw.Keep(bits, p)
	scaled := MulScalar(x, 1/(1-p))
	return Where(keep, scaled, ZerosLike(scaled))
}
