package layerwise

import (
	"fmt"
	"slices"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/nn"
)

// span is a run of consecutive layers that one program covers.
type span struct {
	first  int
	layers []layer
	key    string // what a graph over the span depends on
}

// layer is one layer's base weights and adapters.
type layer struct {
	base    *nn.Weights
	adapter *nn.Weights // nil: none
}

func (l layer) stores() []*nn.Weights {
	if l.adapter == nil {
		return []*nn.Weights{l.base}
	}
	return []*nn.Weights{l.base, l.adapter}
}

// bind gives l the layer's tensors, which r reads, and returns the trainable ones.
func (sl layer) bind(l *nn.Layer, r *reader) (trainable []*Node) {
	for _, w := range sl.stores() {
		nodes := r.take(len(w.Layout.Slots))
		l.Bind(w.Layout, nodes)
		for _, t := range w.Layout.Trainable() {
			trainable = append(trainable, nodes[t])
		}
	}
	return trainable
}

// spans cuts the model's layers into runs of n.
func spans(base, adapters []*nn.Weights, n int) (out []span) {
	for i := range base {
		if i%n == 0 {
			out = append(out, span{first: i})
		}
		l := layer{base: base[i]}
		if adapters != nil {
			l.adapter = adapters[i]
		}
		s := &out[len(out)-1]
		s.layers = append(s.layers, l)
		for _, w := range l.stores() {
			s.key += w.Layout.Key() + "|"
		}
	}
	return out
}

// trains tells whether the span has anything to train.
func (s span) trains() bool {
	for _, l := range s.layers {
		for _, w := range l.stores() {
			if len(w.Layout.Trainable()) > 0 {
				return true
			}
		}
	}
	return false
}

// tensors returns the span's tensors as program inputs.
func (s span) tensors() (ts []*tensors.Tensor) {
	for _, l := range s.layers {
		for _, w := range l.stores() {
			ts = append(ts, w.Tensors...)
		}
	}
	return ts
}

// shared are the inputs of every block program of one batch.
type shared struct {
	cos, sin *tensors.Tensor // [1 or rows, length, head_dim/2]
	segments *tensors.Tensor // [rows, length] int32, or nil
	promise  int             // about segments: see promisedSegments
	rowKeys  *tensors.Tensor // [rows] uint32, or nil: no dropout
}

// variant says which of the optional inputs there are, and what is known of them.
type variant struct {
	segments bool
	promise  int
	dropout  bool
}

func (s shared) variant() variant { return variant{s.segments != nil, s.promise, s.rowKeys != nil} }

// inputs returns the shared inputs, and the number of the span's first layer where random streams need it.
func (s shared) inputs(index *tensors.Tensor) []*tensors.Tensor {
	in := []*tensors.Tensor{s.cos, s.sin}
	if s.segments != nil {
		in = append(in, s.segments)
	}
	if s.rowKeys != nil {
		in = append(in, s.rowKeys, index)
	}
	return in
}

// reader takes a program's input nodes in order.
type reader struct{ in []*Node }

func (r *reader) take(n int) []*Node {
	head := r.in[:n]
	r.in = r.in[n:]
	return head
}

func (r *reader) one() *Node { return r.take(1)[0] }

// batch reads what shared.inputs wrote.
func (r *reader) batch(v variant) (b nn.Batch, index *Node) {
	b.Cos, b.Sin = r.one(), r.one()
	if v.segments {
		b.Segments, b.MaxSegments = r.one(), v.promise
	}
	if v.dropout {
		b.RowKeys, index = r.one(), r.one()
	}
	return b, index
}

// run applies the layers of the span to x, the i-th after prepare has seen it (nil: nothing to prepare). It returns the
// block's output and the trainable tensors' nodes in order.
func (m *Model) run(s span, r *reader, b nn.Batch, tape *nn.Tape, x *Node, prepare func(i int, l *nn.Layer)) (y *Node, trainable []*Node) {
	for i, sl := range s.layers {
		l := nn.NewLayer(m.Shape, b, tape)
		trainable = append(trainable, sl.bind(l, r)...)
		if prepare != nil {
			prepare(i, l)
		}
		x = m.Block(l, x)
	}
	return x, trainable
}

// numbered tells each layer its number, counted from index; nil where index is.
func numbered(index *Node) func(i int, l *nn.Layer) {
	if index == nil {
		return nil
	}
	return func(i int, l *nn.Layer) { l.At(AddScalar(index, float64(i))) }
}

// forward is the program x, shared, weights → x', kept values.
func (m *Model) forward(s span, sh shared, plan spanPlan) *program {
	v := sh.variant()
	return m.programs.get(m.Device, "block_forward", fmt.Sprint(plan.keep, plan.tokens, v, s.key), func(in []*Node) []*Node {
		r := &reader{in}
		x := r.one()
		b, index := r.batch(v)
		b.PartTokens = plan.tokens
		tape := nn.Record(plan.keep)
		y, _ := m.run(s, r, b, tape, x, numbered(index))
		return append([]*Node{y}, tape.Kept(y)...)
	})
}

// backward is the program x, dx' (whose memory it takes), shared, kept values, weights → dx, gradients of the trainable
// tensors in float32. It goes through the rows in parts, one after the other, if there are several. As the last one, whose dx
// nobody takes, it returns the gradients alone, and dx' keeps its memory.
func (m *Model) backward(s span, sh shared, plan spanPlan, kept int, last bool) *program {
	v, parts := sh.variant(), max(1, plan.parts)
	var takes []int
	if !last {
		takes = []int{1}
	}
	return m.programs.get(m.Device, "block_backward", fmt.Sprint(plan.keep, plan.tokens, kept, parts, last, v, s.key), func(in []*Node) []*Node {
		var dx, grads []*Node // dx of each part, unless this is the last one
		for i := range parts {
			rest := in
			if i > 0 { // not before the part ahead is done; not with its weights either, which would stay decoded
				ahead := dx[max(0, len(dx)-1):]
				after := OptimizationBarriers(slices.Concat(ahead, grads, in)...)
				after = after[copy(ahead, after):]
				grads, rest = after[:len(grads)], after[len(grads):]
			}
			out := m.backwardPart(s, v, plan, kept, rest, i)
			for k, g := range out[1:] {
				if i > 0 {
					out[1+k] = Add(grads[k], g)
				}
			}
			grads = out[1:]
			if !last {
				dx = append(dx, out[0])
			}
		}
		if last {
			return grads
		}
		return append([]*Node{Concatenate(dx, 0)}, grads...)
	}, takes...)
}

// backwardPart is the backward pass of the i-th of the plan's parts, for the inputs of the program over all rows.
func (m *Model) backwardPart(s span, v variant, plan spanPlan, kept int, in []*Node, i int) []*Node {
	parts := max(1, plan.parts)
	part := func(n *Node) *Node { // of a tensor of rows, or of all their tokens
		size := n.Shape().Dim(0) / parts
		return SliceAxis(n, 0, AxisRange(i*size, (i+1)*size))
	}
	if parts == 1 {
		part = func(n *Node) *Node { return n }
	}
	r := &reader{in}
	rows := r.in[0].Shape().Dim(0)
	x, dy := part(r.one()), part(r.one())
	b, index := r.batch(v)
	b.PartTokens = plan.tokens
	for _, n := range []**Node{&b.Cos, &b.Sin, &b.Segments, &b.RowKeys} {
		if *n != nil && (*n).Shape().Dim(0) == rows { // else it is one for all rows
			*n = part(*n)
		}
	}
	var values []*Node
	for _, n := range r.take(kept) {
		values = append(values, part(n))
	}
	tape := nn.Replay(plan.keep, values)
	room := m.Shape.Fused(m.Device.Backend)
	if room {
		dy = tape.DropRoom(dy, x)
	}
	y, trainable := m.run(s, r, b, tape, x, numbered(index))
	out := tape.Gradients(y, dy, append([]*Node{x}, trainable...))
	if room {
		out[0] = tape.AddRoom(out[0])
	}
	return out
}
