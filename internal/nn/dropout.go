package nn

import (
	"hash/fnv"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/draw"
)

// As in PEFT, the adapter of each linear sees inputs that were dropped for it alone: linears that share an input do not
// share which of its elements are zero. An element's draw follows from the row's key, the layer, the linear, the position
// and the column and from nothing else: forward and backward programs, any division of the rows among devices, and the
// plain and the fused form draw the same.

// dropRate is the probability with which inputs of the adapter are dropped in this program.
func (l *Layer) dropRate(a boundAdapter) float64 {
	if l.batch.RowKeys == nil {
		return 0
	}
	return a.Dropout
}

// tokenKeys are the adapter's random streams of length tokens in each of the batch's rows, from where PerToken is on, uint32 [B·length].
func (l *Layer) tokenKeys(a boundAdapter, length int) *Node {
	g := l.batch.RowKeys.Graph()
	row := l.rowKeys(a.Linear)
	token := draw.Mix(AddScalar(Iota(g, shapes.Make(dtypes.Uint32, 1, length), 1), float64(l.from)))
	return Reshape(draw.Mix(Add(InsertAxes(row, 1), token)), -1)
}

// rowKeys are the random streams of that name of the batch's rows in this layer, uint32 [B].
func (l *Layer) rowKeys(name string) *Node {
	h := fnv.New32a()
	h.Write([]byte(name))
	return draw.Mix(BitwiseXor(l.batch.RowKeys, draw.Mix(BitwiseXor(l.index, Const(l.batch.RowKeys.Graph(), h.Sum32())))))
}

// Drop is the dropout of x [B, S, in] at the given rate before the adapter of a linear outside of the layers, where the batch
// has random streams.
func (l *Layer) Drop(x *Node, linear string, rate float64) *Node {
	return l.drop(x, boundAdapter{Adapter: &Adapter{Linear: linear, Dropout: rate}})
}

// drop zeroes elements of x [B, S, in] with the adapter's probability p and scales the others by 1/(1-p).
func (l *Layer) drop(x *Node, a boundAdapter) *Node {
	p := l.dropRate(a)
	if p == 0 {
		return x
	}
	d := x.Shape().Dimensions
	keep := Reshape(draw.Keep(draw.Columns(l.tokenKeys(a, d[1]), d[2]), p), d...)
	scaled := ConvertDType(MulScalar(ConvertDType(x, dtypes.Float32), 1/(1-p)), x.DType()) // no number of half precision
	return Where(keep, scaled, ZerosLike(scaled))
}
