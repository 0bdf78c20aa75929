package nn

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/matmul"
)

// Cache holds the keys and values of earlier tokens while generating.
type Cache struct {
	K, V     *Node // [B, capacity, KVHeads, HeadDim]; Attend replaces them by the extended ones
	Position *Node // int32 scalar: where in the cache the first token of this call goes
	Start    *Node // [B] int32: where in the cache each row begins; what lies before is padding
}

// attend writes k and v [B, S, KVHeads, HeadDim] at the cache's position and lets every query of q [B, S, Heads,
// HeadDim] see what lies at or before its own place and not before its row's start. Scores are materialized, [B, Heads, S,
// capacity] in float32: one query a row is the rule, and only the prompts have more.
func (c *Cache) attend(q, k, v *Node, o attention.Options) *Node {
	g := q.Graph()
	zero := Const(g, int32(0))
	start := []*Node{zero, c.Position, zero, zero}
	c.K, c.V = DynamicUpdateSlice(c.K, k, start), DynamicUpdateSlice(c.V, v, start)

	d := q.Shape().Dimensions
	batch, queries, heads, dim := d[0], d[1], d[2], d[3]
	keys, kvHeads := c.K.Shape().Dim(1), c.K.Shape().Dim(2)
	grid := shapes.Make(dtypes.Int32, queries, keys)
	own := Add(Iota(g, grid, 0), c.Position)
	visible := LessOrEqual(Iota(g, grid, 1), own)
	if o.Window > 0 {
		visible = And(visible, GreaterThan(Iota(g, grid, 1), AddScalar(own, float64(-o.Window))))
	}

	scale := o.Scale
	if scale == 0 {
		scale = 1 / math.Sqrt(float64(dim))
	}
	grouped := Reshape(q, batch, queries, kvHeads, heads/kvHeads, dim)
	// [B, KVHeads, S, heads per KV head, capacity]
	scores := matmul.General(grouped, []int{4}, []int{0, 2}, c.K, []int{3}, []int{0, 2})
	scores = MulScalar(ConvertDType(scores, dtypes.Float32), scale)
	if o.SoftCap > 0 {
		scores = MulScalar(Tanh(DivScalar(scores, o.SoftCap)), o.SoftCap)
	}
	mask := Reshape(visible, 1, 1, queries, 1, keys)
	rows := shapes.Make(dtypes.Int32, batch, keys)
	padding := LessThan(Iota(g, rows, 1), BroadcastToShape(ExpandAxes(c.Start, -1), rows))
	mask = And(mask, Reshape(LogicalNot(padding), batch, 1, 1, 1, keys))
	scores = Where(BroadcastToShape(mask, shapes.Make(dtypes.Bool, scores.Shape().Dimensions...)), scores, AddScalar(ZerosLike(scores), -1e30))
	weights := ConvertDType(Softmax(scores, -1), v.DType())
	out := matmul.General(weights, []int{4}, []int{0, 1}, c.V, []int{1}, []int{0, 2}) // [B, KVHeads, S, group, HeadDim]
	return Reshape(TransposeAllDims(out, 0, 2, 1, 3, 4), batch, queries, heads, dim)
}
