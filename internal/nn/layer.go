package nn

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/attention"
)

// Shape is what the primitives need to know of a model.
type Shape struct {
	Hidden, Heads, KVHeads, HeadDim int
	NormEps                         float64
	Compute                         dtypes.DType // of activations and matrix products
}

// Batch are the inputs of a program that all layers share; B rows of S tokens.
type Batch struct {
	Cos, Sin *Node // [1 or B, S, HeadDim/2] float32, see RoPETable
	Segments *Node // [B, S] int32, or nil: every token of a row sees the row's earlier ones
	// MaxSegments is what attention may be promised about Segments, 0 for nothing: see attention.Options.
	MaxSegments int
	RowKeys     *Node // [B] uint32: the rows' random streams while training with dropout, else nil
}

// Layer is one decoder layer while a program over it is built: a family calls its methods, in which the weights that
// lie on the device, the adapters on them and the values kept for the backward pass come in by name.
type Layer struct {
	shape    Shape
	batch    Batch
	stores   []store // base weights, then adapters
	adapters map[string]boundAdapter
	tape     *Tape
	cache    *Cache
	index    *Node // uint32 scalar, which layer of the model it is; for random streams
}

// store is a layout with the nodes of its slots.
type store struct {
	layout *Layout
	nodes  []*Node
}

// NewLayer starts a layer of the given shape. The tape may be nil: nothing is kept.
func NewLayer(shape Shape, batch Batch, tape *Tape) *Layer {
	return &Layer{shape: shape, batch: batch, tape: tape, adapters: map[string]boundAdapter{}}
}

// Bind adds the tensors of a layout; nodes are those of its slots.
func (l *Layer) Bind(layout *Layout, nodes []*Node) *Layer {
	l.stores = append(l.stores, store{layout, nodes})
	for _, a := range layout.adapter {
		l.adapters[a.Linear] = boundAdapter{a, nodes[a.a], nodes[a.b]}
	}
	return l
}

// At says which layer of the model it is, as a uint32 scalar.
func (l *Layer) At(index *Node) *Layer { l.index = index; return l }

// WithCache makes Attend read and extend c.
func (l *Layer) WithCache(c *Cache) *Layer { l.cache = c; return l }

// RMSNorm is x / sqrt(mean(x²) + eps) times the gain of that name, over the last axis (arXiv:1910.07467); the mean and
// the quotient in float32.
func (l *Layer) RMSNorm(x *Node, name string) *Node {
	for _, s := range l.stores {
		if i, ok := s.layout.norms[name]; ok {
			return RMSNorm(x, s.nodes[i], l.shape.NormEps)
		}
	}
	panic(fmt.Errorf("the layer has no norm %q", name))
}

// RMSNorm is the function behind [Layer.RMSNorm]; gain is [features].
func RMSNorm(x, gain *Node, eps float64) *Node {
	wide := ConvertDType(x, dtypes.Float32)
	mean := ReduceAndKeep(Mul(wide, wide), ReduceMean, -1)
	y := ConvertDType(Div(wide, Sqrt(AddScalar(mean, eps))), x.DType())
	return Mul(y, ExpandLeftToRank(ConvertDType(gain, x.DType()), x.Rank()))
}

// Heads splits the last axis of x [B, S, heads·HeadDim] into [B, S, heads, HeadDim].
func (l *Layer) Heads(x *Node) *Node {
	d := x.Shape().Dimensions
	return Reshape(x, d[0], d[1], d[2]/l.shape.HeadDim, l.shape.HeadDim)
}

// RoPE rotates x [B, S, heads, HeadDim] by the angles of its positions, in float32: the halves of a head are the real
// and imaginary parts (arXiv:2104.09864, in the order of transformers' rotate_half).
func (l *Layer) RoPE(x *Node) *Node {
	half := l.shape.HeadDim / 2
	wide := ConvertDType(x, dtypes.Float32)
	re := Slice(wide, AxisRange(), AxisRange(), AxisRange(), AxisRange(0, half))
	im := Slice(wide, AxisRange(), AxisRange(), AxisRange(), AxisRange(half))
	cos, sin := ExpandAxes(l.batch.Cos, 2), ExpandAxes(l.batch.Sin, 2)
	return ConvertDType(Concatenate([]*Node{
		Sub(Mul(re, cos), Mul(im, sin)),
		Add(Mul(im, cos), Mul(re, sin)),
	}, -1), x.DType())
}

// Attend is causal attention of q [B, S, Heads, HeadDim] over k and v [B, S, KVHeads, HeadDim], within segments where
// the batch has them, and over the cache where there is one. It returns [B, S, Heads·HeadDim].
func (l *Layer) Attend(q, k, v *Node, o attention.Options) *Node {
	d := q.Shape().Dimensions
	flat := func(x *Node) *Node { return Reshape(x, d[0], d[1], d[2]*d[3]) }
	if l.cache != nil {
		return flat(l.cache.attend(q, k, v, o))
	}
	o.Causal, o.SegmentIDs, o.MaxSegments = true, l.batch.Segments, l.batch.MaxSegments
	if l.tape == nil || l.tape.keep&KeepAttention == 0 {
		return flat(attention.Attend(q, k, v, o))
	}
	if l.tape.replay {
		out, _ := l.tape.take()
		stats, _ := l.tape.take()
		return flat(attention.FromSaved(q, k, v, out, stats, o))
	}
	out, stats := attention.Forward(q, k, v, o)
	l.tape.kept = append(l.tape.kept, out, stats)
	return flat(out)
}

// SwiGLU is silu(gate) · up, in float32 (arXiv:2002.05202).
func (l *Layer) SwiGLU(gate, up *Node) *Node {
	g := ConvertDType(gate, dtypes.Float32)
	return ConvertDType(Mul(Mul(g, Sigmoid(g)), ConvertDType(up, dtypes.Float32)), gate.DType())
}

// Residual is x + delta, the residual stream going on.
func (l *Layer) Residual(x, delta *graph.Node) *Node {
	return l.tape.value(KeepResidual, Add(x, delta))
}
