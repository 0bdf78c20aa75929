package nn

import (
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
)

// Keep is a set of kinds of intermediate values that a forward program hands to its backward program, which recomputes
// the others.
type Keep uint

const (
	KeepAttention Keep = 1 << iota // attention's output and log-sum-exp
	KeepResidual                   // the residual stream inside the layer
	KeepLinears                    // outputs of the groups whose value a later operation needs
	KeepNothing   Keep = 0
	KeepAll            = KeepAttention | KeepResidual | KeepLinears
)

// Tape carries the kept values of one program: a forward program records them and returns them, a backward program
// plays them back as leaves in place of what it would recompute.
type Tape struct {
	keep   Keep
	replay bool
	kept   []*Node // recorded, or handed in for replay
	next   int
	cuts   []cut
}

// cut is a place where a leaf stands in for a recomputed value, so that the gradient has to be carried across by hand.
type cut struct {
	leaf     int // index in kept
	computed *Node
}

// Record returns a tape that collects what keep names.
func Record(keep Keep) *Tape { return &Tape{keep: keep} }

// Replay returns a tape that plays back kept, the values recorded under the same keep.
func Replay(keep Keep, kept []*Node) *Tape { return &Tape{keep: keep, replay: true, kept: kept} }

// Kept returns the recorded values in order. The block's own output y is not among them: the program returns it anyway.
func (t *Tape) Kept(y *Node) []*Node {
	if n := len(t.kept); !t.replay && n > 0 && t.kept[n-1] == y {
		return t.kept[:n-1]
	}
	return t.kept
}

// value records n, or returns the leaf that stands in for it.
func (t *Tape) value(kind Keep, n *Node) *Node {
	if t == nil || t.keep&kind == 0 {
		return n
	}
	if !t.replay {
		t.kept = append(t.kept, n)
		return n
	}
	leaf, ok := t.take()
	if !ok { // the block's output, see Kept
		return n
	}
	t.cuts = append(t.cuts, cut{t.next - 1, n})
	return leaf
}

// take returns the next value to play back.
func (t *Tape) take() (*Node, bool) {
	if t.next == len(t.kept) {
		return nil, false
	}
	t.next++
	return t.kept[t.next-1], true
}

// Gradients returns the vector-Jacobian product of y with dy for each of wrt. Wherever a leaf was played back, the
// gradient that arrived at it goes on from the computed value that it stood in for; of that computation only the
// backward is then alive.
func (t *Tape) Gradients(y, dy *Node, wrt []*Node) []*Node {
	leaves := append([]*Node{}, wrt...)
	for _, c := range t.cuts {
		leaves = append(leaves, t.kept[c.leaf])
	}
	sum := Gradient(inner(y, dy), leaves...)
	for i := len(t.cuts) - 1; i >= 0; i-- {
		more := Gradient(inner(t.cuts[i].computed, sum[len(wrt)+i]), leaves...)
		for j := range sum {
			sum[j] = Add(sum[j], more[j])
		}
	}
	return sum[:len(wrt)]
}

// inner is <n, d> in float32 with d constant; its gradient at n is d in n's dtype.
func inner(n, d *Node) *Node {
	return ReduceAllSum(ConvertDType(Mul(n, StopGradient(ConvertDType(d, n.DType()))), dtypes.Float32))
}
