package nn

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/kernels"
	"github.com/loris-ml/loris/internal/seam"
)

// Form says how the primitives are computed. The two differ by rounding.
type Form int

const (
	FormAuto  Form = iota // fused on hosts, in bfloat16 where Loris's CUDA kernels run and with Float8, else plain
	FormPlain             // one graph operation after the other, differentiated by autodiff
	FormFused             // products that carry their adapters along, and backward passes written out by hand
)

// Shape is what the primitives need to know of a model.
type Shape struct {
	Hidden, Heads, KVHeads, HeadDim int
	Rotary                          int // features of a head that RoPE rotates, the first ones; 0: all
	NormEps                         float64
	UnitOffset                      bool         // norms multiply by 1 + gain, before they round, as Gemma's do
	Compute                         dtypes.DType // of activations and matrix products
	Float8                          bool         // products of frozen weights in float8, see fp8.go
	Form                            Form
	Attention                       attention.Route
	Notices                         *Notices // nil: nobody wants to know
}

// Batch are the inputs of a program that all layers share; B rows of S tokens.
type Batch struct {
	Cos, Sin *Node // [1 or B, S, width] float32, see Rope.Table
	Segments *Node // [B, S] int32, or nil: every token of a row sees the row's earlier ones
	// MaxSegments is what attention may be promised about Segments, 0 for nothing: see attention.Options.
	MaxSegments int
	RowKeys     *Node // [B] uint32: the rows' random streams while training with dropout, else nil
	PartTokens  int   // how many tokens of each row PerToken takes at a time; 0: all
}

// Layer is one decoder layer while a program over it is built: a family calls its methods, in which the weights that
// lie on the device, the adapters on them and the values kept for the backward pass come in by name.
//
// All methods take and return activations [B, S, features], heads [B, S, heads, HeadDim]. Between them a family may not
// compute on its own: the tape knows primitives only, and says so when a gradient arrives at anything else.
type Layer struct {
	shape    Shape
	batch    Batch
	stores   []store // base weights, then adapters
	adapters map[string]boundAdapter
	shifts   map[string]boundShift
	tuned    map[string]boundTuned
	tape     *Tape
	cache    *Cache
	stacks   map[string]stacked // by a group's first linear
	prefix   *Node              // see prefix.go; nil: none
	index    *Node              // uint32 scalar, which layer of the model it is; for random streams
	from     int                // the first token of the part that PerToken is at
	rope     int                // which table of Batch.Cos and Sin it rotates by
	inputs   map[string]*Node   // nil unless CaptureInputs was called
	fusion
}

// store is a layout with the nodes of its slots.
type store struct {
	layout *Layout
	nodes  []*Node
}

// NewLayer starts a layer of the given shape. The tape may be nil: nothing is kept.
func NewLayer(shape Shape, batch Batch, tape *Tape) *Layer {
	l := &Layer{shape: shape, batch: batch, tape: tape, adapters: map[string]boundAdapter{}, shifts: map[string]boundShift{}, tuned: map[string]boundTuned{}}
	if tape != nil {
		l.fusion = tape.fusion
	} else {
		l.fusion = newFusion()
	}
	return l
}

// Bind adds the tensors of a layout; nodes are those of its slots.
func (l *Layer) Bind(layout *Layout, nodes []*Node) *Layer {
	l.stores = append(l.stores, store{layout, nodes})
	for _, a := range layout.adapter {
		bound := boundAdapter{Adapter: a, a: nodes[a.a], b: nodes[a.b]}
		if a.ScaleInput {
			bound.scale = nodes[a.scale]
		}
		if a.Rows > 0 {
			bound.rows = nodes[a.rows]
		}
		if a.DoRA {
			bound.magnitude, bound.square = nodes[a.magnitude], nodes[a.square]
		}
		l.adapters[a.Linear] = bound
	}
	if i := layout.Prefix(); i >= 0 {
		l.prefix = nodes[i]
	}
	for _, a := range layout.tuned {
		l.tuned[a.linear] = store{layout, nodes}.bindTuned(a)
	}
	for _, s := range layout.shifts {
		l.shifts[s.Linear] = boundShift{s, nodes[s.slot]}
	}
	return l
}

// At says which layer of the model it is, as a uint32 scalar.
func (l *Layer) At(index *Node) *Layer { l.index = index; return l }

// CaptureInputs makes the layer compute in its plain form and put the input [B, S, In] of each of its linears into the map
// that it returns, by the linear's name. Linears that share their input have one node.
func (l *Layer) CaptureInputs() map[string]*Node {
	l.shape.Form, l.inputs = FormPlain, map[string]*Node{}
	return l.inputs
}

// WithCache makes Attend read and extend c.
func (l *Layer) WithCache(c *Cache) *Layer { l.cache = c; return l }

// Kind is what the layer's layout was given as such, "" if nothing.
func (l *Layer) Kind() string { return l.stores[0].layout.kind }

// UseRope makes RoPE rotate by table i of the model's Rope; a layer begins with table 0.
func (l *Layer) UseRope(i int) { l.rope = i }

// Fused tells whether the primitives are computed in their fused form, where it covers them. Programs then hand on the
// gradients of activations with room behind, see [Tape.AddRoom].
func (s Shape) Fused(b compute.Backend) bool {
	switch s.Form {
	case FormAuto:
		if onHost(b) {
			return s.Compute != dtypes.Float16 // whose numbers end sooner in the fused backward: at a sixteenth of the plain one's loss scale
		}
		return s.Compute == dtypes.BFloat16 && (s.Float8 || kernels.Available(b))
	default:
		return s.Form == FormFused
	}
}

// onHost tells whether programs run on the CPU, where the fused form is worth it without kernels of its own: thin products and passes
// over memory are slow beside large products.
func onHost(b compute.Backend) bool {
	if p, ok := seam.Of(b); ok {
		return !p.IsCUDA()
	}
	return b.Name() == gobackend.BackendName
}

// GradientShape is how programs hand on the gradient of activations [rows, length, Hidden].
func (s Shape) GradientShape(b compute.Backend, rows, length int) shapes.Shape {
	if !s.Fused(b) {
		return shapes.Make(s.Compute, rows, length, s.Hidden)
	}
	return shapes.Make(s.Compute, rows*length, s.Hidden+room)
}

func (l *Layer) fused(x *Node) bool { return l.shape.Fused(x.Graph().Backend()) }

// gain returns the gain of a norm, and whether it is trained.
func (l *Layer) gain(name string) (gain *Node, trained bool) {
	for _, s := range slices.Backward(l.stores) { // see copies.go
		if i, ok := s.layout.norms[name]; ok {
			return s.nodes[i], s.layout.Slots[i].Trainable
		}
	}
	panic(fmt.Errorf("the layer has no norm %q", name))
}

// RMSNorm is x / sqrt(mean(x²) + eps) times the gain of that name, over the last axis (arXiv:1910.07467); the mean and
// the quotient in float32. Of heads it is the norm of each head's features.
func (l *Layer) RMSNorm(x *Node, name string) *Node {
	gain, trained := l.gain(name)
	if x.Rank() == 3 && !trained && l.fused(x) { // a row of heads is too short for a block of its own
		return l.fusedNorm(x, gain)
	}
	ins := []*Node{x}
	if trained {
		ins = append(ins, gain)
	}
	return l.tape.plain(ins, func(in []*Node) []*Node {
		g := gain
		if trained {
			g = in[1]
		}
		return []*Node{l.shape.RMSNorm(in[0], g)}
	})[0]
}

// RMSNorm is the function behind [Layer.RMSNorm]; gain is [features].
func (s Shape) RMSNorm(x, gain *Node) *Node {
	wide := ConvertDType(x, dtypes.Float32)
	mean := ReduceAndKeep(Mul(wide, wide), ReduceMean, -1)
	wide = Div(wide, Sqrt(AddScalar(mean, s.NormEps)))
	if s.UnitOffset {
		return ConvertDType(Mul(wide, ExpandLeftToRank(OnePlus(ConvertDType(gain, dtypes.Float32)), x.Rank())), x.DType())
	}
	y := ConvertDType(wide, x.DType())
	return Mul(y, ExpandLeftToRank(ConvertDType(gain, x.DType()), x.Rank()))
}

// Heads splits the last axis of x [B, S, heads·HeadDim] into [B, S, heads, HeadDim].
func (l *Layer) Heads(x *Node) *Node {
	return l.tape.plain([]*Node{x}, func(in []*Node) []*Node { return []*Node{l.heads(in[0])} })[0]
}

func (l *Layer) heads(x *Node) *Node {
	d := x.Shape().Dimensions
	return Reshape(x, d[0], d[1], d[2]/l.shape.HeadDim, l.shape.HeadDim)
}

// RoPE rotates x [B, S, heads, HeadDim] by the angles of its positions, in float32: the halves of a head are the real
// and imaginary parts (arXiv:2104.09864, in the order of transformers' rotate_half). Where only the first features of a
// head are rotated, Shape.Rotary of them, the others stay.
func (l *Layer) RoPE(x *Node) *Node {
	return l.tape.plain([]*Node{x}, func(in []*Node) []*Node { return []*Node{l.rotate(in[0])} })[0]
}

func (l *Layer) rotate(x *Node) *Node {
	n := l.rotary()
	cos, sin := l.angles()
	y := ConvertDType(kernels.Rotated(SliceAxis(x, -1, AxisRange(0, n)), ExpandAxes(cos, 2), ExpandAxes(sin, 2)), x.DType())
	if n == l.shape.HeadDim {
		return y
	}
	return Concatenate([]*Node{y, SliceAxis(x, -1, AxisRange(n))}, -1)
}

// rotary is how many features of a head RoPE rotates.
func (l *Layer) rotary() int {
	if l.shape.Rotary > 0 {
		return l.shape.Rotary
	}
	return l.shape.HeadDim
}

// angles are the cosines and sines [1 or B, S, rotary/2] of the layer's table.
func (l *Layer) angles() (cos, sin *Node) {
	cos, sin = l.batch.Cos, l.batch.Sin
	half := l.rotary() / 2
	if cos.Shape().Dim(-1) == half {
		return cos, sin
	}
	columns := AxisRange(l.rope*half, (l.rope+1)*half)
	return SliceAxis(cos, -1, columns), SliceAxis(sin, -1, columns)
}

// RotaryHeads splits queries, keys and values [B, S, heads·HeadDim] into heads, and rotates queries and keys as [Layer.RoPE]
// does. As outputs of one group of linears the three have one backward pass.
func (l *Layer) RotaryHeads(qkv []*Node) (q, k, v *Node) {
	whole := l.whole(qkv)
	if whole == nil || !l.fused(whole) || l.rotary() < l.shape.HeadDim {
		return l.RoPE(l.Heads(qkv[0])), l.RoPE(l.Heads(qkv[1])), l.Heads(qkv[2])
	}
	cos, sin := l.angles()
	q, k, v = kernels.RoPE(whole, cos, sin, l.shape.Heads, l.shape.KVHeads)
	l.unrotated[q] = whole
	l.tape.record([]*Node{q, k, v}, func(d []*Node) {
		for i, n := range []*Node{q, k, v} {
			if d[i] == nil {
				d[i] = ZerosLike(n)
			}
		}
		all := kernels.RoPEBackward(d[0], d[1], d[2], cos, sin, room)
		l.tape.add(whole, l.head(all, whole, true))
	})
	return q, k, v
}

// Attend is causal attention of q [B, S, Heads, HeadDim] over k and v [B, S, KVHeads, HeadDim], within segments where
// the batch has them, over the cache where there is one, and over the layer's prefix. It returns [B, S, Heads·HeadDim].
func (l *Layer) Attend(q, k, v *Node, o attention.Options) *Node {
	k, v = l.withPrefix(k, v)
	d := q.Shape().Dimensions
	flat := func(x *Node) []*Node { return []*Node{Reshape(x, d[0], d[1], d[2]*d[3])} }
	o.Route = l.shape.Attention
	if l.cache != nil {
		if whole := l.unrotated[q]; whole != nil && d[1] == 1 && l.cache.K != nil { // then q, k and v are of no use themselves
			cos, sin := l.angles()
			return flat(l.cache.attendRotary(whole, cos, sin, d[2], o))[0]
		}
		return flat(l.cache.attend(q, k, v, o))[0]
	}
	o.Causal, o.SegmentIDs, o.MaxSegments = true, l.batch.Segments, l.batch.MaxSegments
	l.shape.Notices.attention(q, k, v, o)
	q, k, v = l.tape.value(KeepAttention, q), l.tape.value(KeepAttention, k), l.tape.value(KeepAttention, v)
	ins := []*Node{q, k, v}
	if l.tape == nil || l.tape.keep&KeepAttention == 0 {
		return l.tape.plain(ins, func(in []*Node) []*Node { return flat(attention.Attend(in[0], in[1], in[2], o)) })[0]
	}
	if !l.tape.replay {
		out, stats := attention.Forward(q, k, v, o)
		l.tape.constant(KeepAttention, out)
		l.tape.constant(KeepAttention, stats)
		return flat(out)[0]
	}
	out, stats := l.tape.played(), l.tape.played()
	return l.tape.plain(ins, func(in []*Node) []*Node { return flat(attention.FromSaved(in[0], in[1], in[2], out, stats, o)) })[0]
}

// Scale is x·factor; 1 costs nothing.
func (l *Layer) Scale(x *Node, factor float64) *Node {
	if factor == 1 {
		return x
	}
	y := MulScalar(x, factor)
	l.tape.record([]*Node{y}, func(d []*Node) { l.tape.add(x, MulScalar(d[0], factor)) })
	return y
}

// Residual is x + delta, the residual stream going on.
func (l *Layer) Residual(x, delta *Node) *Node {
	y := Add(x, delta)
	l.tape.record([]*Node{y}, func(d []*Node) {
		l.tape.add(x, d[0])
		l.tape.add(delta, d[0])
	})
	return l.tape.value(KeepResidual, y)
}
