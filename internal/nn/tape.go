package nn

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
)

// Keep is a set of kinds of intermediate values that a forward program hands to its backward program, which recomputes
// the others.
type Keep uint

const (
	KeepSmall     Keep = 1 << iota // a number per token of each norm, and the adapters' inner products
	KeepResidual                   // the residual stream inside the layer
	KeepAttention                  // attention's inputs, output and log-sum-exp
	KeepGate                       // gate and up, the inputs of the gated activation
	KeepNothing   Keep = 0
	KeepAll            = KeepSmall | KeepResidual | KeepAttention | KeepGate
)

// Tape is reverse-mode differentiation with primitives for its operations. A forward program records the values that
// keep names and returns them. A backward program plays them back as leaves in place of what it would recompute; each
// primitive leaves its own backward on the tape, and [Tape.Gradients] runs them last to first.
type Tape struct {
	keep   Keep
	replay bool
	kept   []*Node // recorded, or handed in for replay
	next   int
	ops    []operation
	grads  map[*Node]*Node // what has arrived so far
	fusion                 // of all layers it goes through
}

// operation is one primitive: backward gets the gradient that arrived at each of outs, nil where none did, and adds to
// those of the primitive's inputs.
type operation struct {
	outs     []*Node
	backward func(dOuts []*Node)
}

// Record returns a tape that collects what keep names.
func Record(keep Keep) *Tape { return &Tape{keep: keep, fusion: newFusion()} }

// Replay returns a tape that plays back kept, the values recorded under the same keep.
func Replay(keep Keep, kept []*Node) *Tape {
	return &Tape{keep: keep, replay: true, kept: kept, grads: map[*Node]*Node{}, fusion: newFusion()}
}

// Kept returns the recorded values in order. The block's own output y is not among them: the program returns it anyway.
func (t *Tape) Kept(y *Node) []*Node {
	if n := len(t.kept); !t.replay && n > 0 && t.kept[n-1] == y {
		return t.kept[:n-1]
	}
	return t.kept
}

// differentiates tells whether a backward pass follows in this graph.
func (t *Tape) differentiates() bool { return t != nil && t.replay }

// value keeps n, or returns the leaf that stands in for it, through which gradients go on to n.
func (t *Tape) value(kind Keep, n *Node) *Node {
	leaf := t.constant(kind, n)
	if leaf != n {
		t.record([]*Node{leaf}, func(d []*Node) { t.add(n, d[0]) })
	}
	return leaf
}

// constant keeps n, or returns the leaf that stands in for it; no gradient passes.
func (t *Tape) constant(kind Keep, n *Node) *Node {
	if t == nil || t.keep&kind == 0 {
		return n
	}
	if !t.replay {
		t.kept = append(t.kept, n)
		return n
	}
	if t.next == len(t.kept) { // the block's output, see Kept
		return n
	}
	return t.played()
}

// played returns the next kept value.
func (t *Tape) played() *Node {
	t.next++
	return t.kept[t.next-1]
}

// record puts an operation on the tape.
func (t *Tape) record(outs []*Node, backward func(dOuts []*Node)) {
	if t.differentiates() {
		t.ops = append(t.ops, operation{outs, backward})
	}
}

// add adds d to the gradient that has arrived at n.
func (t *Tape) add(n, d *Node) {
	if before := t.grads[n]; before != nil {
		d = Add(before, d)
	}
	t.grads[n] = d
}

// take returns the gradient that has arrived at n, nil if none has, and forgets it.
func (t *Tape) take(n *Node) *Node {
	d := t.grads[n]
	delete(t.grads, n)
	return d
}

// backward runs the operations last to first, from dy at y on.
func (t *Tape) backward(y, dy *Node) {
	t.grads[y] = dy
	for _, op := range slices.Backward(t.ops) {
		d, any := make([]*Node, len(op.outs)), false
		for i, n := range op.outs {
			d[i] = t.take(n)
			any = any || d[i] != nil
		}
		if any {
			op.backward(d)
		}
	}
}

// arrivals are the nodes at which gradients have arrived and were not taken, in the graph's order.
func (t *Tape) arrivals() []*Node {
	return slices.SortedFunc(maps.Keys(t.grads), func(a, b *Node) int { return cmp.Compare(a.Id(), b.Id()) })
}

// Gradients returns the vector-Jacobian product of y with dy for each of wrt.
func (t *Tape) Gradients(y, dy *Node, wrt []*Node) []*Node {
	t.backward(y, dy)
	out := make([]*Node, len(wrt))
	for i, n := range wrt {
		if out[i] = t.take(n); out[i] == nil {
			out[i] = ZerosLike(n)
		}
	}
	for n := range t.grads {
		panic(fmt.Errorf("a gradient arrived at %s, which is neither an input of the layer nor computed by one of its primitives", n))
	}
	return out
}

// plain is outs = build(ins) with the gradient that autodiff derives.
func (t *Tape) plain(ins []*Node, build func(ins []*Node) []*Node) []*Node {
	if !t.differentiates() {
		return build(ins)
	}
	local := make([]*Node, len(ins)) // autodiff ends here
	for i, n := range ins {
		local[i] = Identity(n)
	}
	outs := build(local)
	t.record(outs, func(d []*Node) {
		var total *Node
		for i, n := range outs {
			if d[i] != nil {
				total = sum(total, inner(n, d[i]))
			}
		}
		for i, g := range Gradient(total, local...) {
			t.add(ins[i], g)
		}
	})
	return outs
}

// inner is <n, d> in float32 with d constant; its gradient at n is d in n's dtype.
func inner(n, d *Node) *Node {
	return ReduceAllSum(ConvertDType(Mul(n, StopGradient(ConvertDType(d, n.DType()))), dtypes.Float32))
}

// sum is a + b, where a may be nil.
func sum(a, b *Node) *Node {
	if a == nil {
		return b
	}
	return Add(a, b)
}
