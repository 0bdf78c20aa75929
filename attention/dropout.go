package attention

import (
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/draw"
)

// kept says which weights of queries [q0, q1) and keys [k0, k1) survive dropout, [batch, kv_heads, group, queries, keys];
// nil without dropout. A weight's draw is that of its row of scores (key of the batch's row, head, query) mixed with the
// key's number; no part of it depends on how the scores are cut into tiles.
func (c *call) kept(q0, q1, k0, k1 int) *Node {
	if c.DropoutRate == 0 {
		return nil
	}
	g := c.q.Graph()
	u32 := func(v int) *Node { return Const(g, uint32(v)) }
	rows := shapes.Make(dtypes.Uint32, 1, c.kvHeads, c.group, q1-q0, 1)
	head := Add(Mul(Iota(g, rows, 1), u32(c.group)), Iota(g, rows, 2))
	row := Add(Mul(head, u32(c.queries)), Add(Iota(g, rows, 3), u32(q0)))
	row = draw.Mix(Add(draw.Mix(row), Reshape(draw.Mix(c.DropoutKeys), c.batch, 1, 1, 1, 1)))
	key := Add(Iota(g, shapes.Make(dtypes.Uint32, 1, 1, 1, 1, k1-k0), 4), u32(k0))
	return draw.Keep(draw.Mix(Add(draw.Mix(key), row)), c.DropoutRate)
}

// dropped is x, scaled, where kept, and 0 elsewhere. The same holds for the gradient of x.
func (c *call) dropped(x, kept *Node) *Node {
	return Where(kept, MulScalar(x, 1/(1-c.DropoutRate)), ZerosLike(x))
}

// drop applies dropout to what lies on a tile's scores.
func (t *tiled) drop(x *Node, b band, k tile) *Node {
	kept := t.kept(b.q0, b.q1, k.k0, k.k1)
	if kept == nil {
		return x
	}
	return Reshape(t.dropped(t.split(x, b, k), kept), x.Shape().Dimensions...)
}
