package attention

import (
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// splitHeads turns x [batch or 1, heads or 1, ., .] into [batch or 1, kv_heads or 1, group or 1, ., .].
func (c *call) splitHeads(x *Node) *Node {
	d := x.Shape().Dimensions
	if d[1] == 1 {
		return ExpandAxes(x, 2)
	}
	return Reshape(x, d[0], c.kvHeads, c.group, d[2], d[3])
}

// wantsBiasGradient tells whether the bias is one that gets a gradient.
func (c *call) wantsBiasGradient() bool { return c.Bias != nil && !c.Bias.StopGradient() }

// biasTile is the part of the bias that a tile needs.
func (t *tiled) biasTile(b band, x tile) *Node {
	return Slice(t.added, AxisRange(), AxisRange(), AxisRange(), AxisRange(b.q0, b.q1), AxisRange(x.k0, x.k1))
}

// biasGradient sums the gradient of a tile's scores over what the bias serves: float32, in the bias's first three axes.
func (t *tiled) biasGradient(ds *Node, b band, x tile) *Node {
	ds = t.split(ds, b, x)
	var shared []int
	for axis := range 3 {
		if t.added.Shape().Dim(axis) == 1 && ds.Shape().Dim(axis) > 1 {
			shared = append(shared, axis)
		}
	}
	if len(shared) > 0 {
		ds = ReduceAndKeep(ds, ReduceSum, shared...)
	}
	return ds
}

// biasRow joins the gradients of a band's tiles, by first key, to all keys; those that no query of the band sees have none.
func (t *tiled) biasRow(tiles map[int]*Node, b band) *Node {
	_, blockKV := t.blocks()
	var parts []*Node
	for k0 := 0; k0 < t.keys; k0 += blockKV {
		x := tiles[k0]
		if x == nil {
			d := t.added.Shape().Dimensions
			x = Zeros(t.added.Graph(), shapes.Make(dtypes.Float32, d[0], d[1], d[2], b.q1-b.q0, min(blockKV, t.keys-k0)))
		}
		parts = append(parts, x)
	}
	return Concatenate(parts, -1)
}

// joinBias joins bands to the gradient of the bias, in its shape and dtype.
func (t *tiled) joinBias(bands []*Node) *Node {
	return ConvertDType(Reshape(Concatenate(bands, 3), t.Bias.Shape().Dimensions...), t.Bias.DType())
}
