package attention

import (
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/matmul"
)

// dense computes all scores at once in float32, in operations whose gradient is autodiff's. It is the plain twin of the
// other routes.
func (c *call) dense(q, k, v *Node) (out, lse *Node) {
	q = Reshape(q, c.batch, c.queries, c.kvHeads, c.group, c.dim)
	s := matmul.Wide(q, []int{4}, []int{0, 2}, k, []int{3}, []int{0, 2}) // [batch, kv_heads, q_seq, group, kv_seq]
	s = MulScalar(s, c.Scale)
	if c.SoftCap > 0 {
		s = MulScalar(Tanh(DivScalar(s, c.SoftCap)), c.SoftCap)
	}
	if c.Bias != nil {
		s = Add(s, queriesFirst(wide(c.splitHeads(c.Bias))))
	}
	if visible := c.visible(0, c.queries, 0, c.keys, c.Causal); visible != nil {
		if visible.Rank() == 2 {
			visible = ExpandAxes(visible, 0, 1, 3)
		} else {
			visible = ExpandAxes(visible, 1, 3)
		}
		s = Where(visible, s, Scalar(s.Graph(), dtypes.Float32, hidden))
	}
	top := StopGradient(MaxScalar(ReduceAndKeep(s, ReduceMax, -1), floor))
	p := Exp(Sub(s, top))
	sum := MaxScalar(ReduceAndKeep(p, ReduceSum, -1), tiny)
	weights := Div(p, sum)
	if kept := c.kept(0, c.queries, 0, c.keys); kept != nil {
		weights = c.dropped(weights, queriesFirst(kept))
	}
	out = matmul.Wide(ConvertDType(weights, c.dtype), []int{4}, []int{0, 1}, v, []int{1}, []int{0, 2}) // [batch, kv_heads, q_seq, group, dim]
	out = Reshape(TransposeAllDims(ConvertDType(out, c.dtype), 0, 2, 1, 3, 4), c.batch, c.queries, c.heads, c.dim)
	lse = TransposeAllDims(Squeeze(Add(top, Log(sum)), -1), 0, 1, 3, 2)
	return out, Reshape(lse, c.batch, c.heads, c.queries)
}

// queriesFirst turns [batch, kv_heads, group, q_seq, kv_seq] into [batch, kv_heads, q_seq, group, kv_seq].
func queriesFirst(x *Node) *Node { return TransposeAllDims(x, 0, 1, 3, 2, 4) }
