package customvjp

import (
	"slices"

	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/support/exceptions"
)

// Backward is the vector-Jacobian product of a region: given the region's inputs, its outputs, and the gradient that
// arrived at each output (zeros where none did), it returns the gradient of each input, in the input's shape and dtype.
// A nil stands for no gradient (integer inputs, constants).
//
// It may be called several times (once for each Gradient call that passes through the region) or never. Operations in it
// that repeat operations of the forward on the same nodes are merged with them by the backend's compiler, and their
// results kept alive from the forward to the backward; to really compute them again, pass their operands through
// graph.OptimizationBarriers together with an arriving gradient.
type Backward func(ins, outs, dOuts []*graph.Node) []*graph.Node

// Apply returns outs, unchanged, as functions of ins whose gradient is bwd.
//
// outs were computed by any means from graph.StopGradient of each of ins, or are leaves (parameters) that hold what an
// earlier program computed from ins. Gradients flow to ins only: a gradient with respect to one of outs, or through
// anything else that outs were computed from, is zero. Second derivatives are not supported.
//
// Like all graph-building functions it panics on misuse: no outs, no ins, nodes of different graphs. What bwd returns is
// checked when a gradient is taken.
func Apply(outs, ins []*graph.Node, bwd Backward) []*graph.Node {
	if len(outs) == 0 || len(ins) == 0 || bwd == nil {
		exceptions.Panicf("customvjp.Apply: needs at least one output, one input and a backward function, got %d outputs, %d inputs, backward function given: %v",
			len(outs), len(ins), bwd != nil)
	}
	// A barrier over several nodes is the one operation that GoMLX has with any number of differentiable inputs and
	// outputs, whose value is what goes in. It carries the gradient; which one, its alias says.
	g := ins[0].Graph()
	operands := make([]*graph.Node, 0, len(outs)+len(ins))
	operands = append(append(operands, outs...), ins...)
	results := graph.OptimizationBarriers(operands...)
	barrier := results[0].Inputs()[0]
	// The leading slash makes the alias absolute, so that alias scopes do not change it. Copies of the barrier that
	// Checkpoint's rematerialization makes carry the same alias, and so find the same region.
	barrier.WithAlias(graph.AliasScopeSeparator + g.UniqueName("loris_custom_vjp"))
	g.AttachState(stateKey(barrier.GetAlias()), &region{numOuts: len(outs), bwd: bwd})
	return results[:len(outs)]
}

// stateKey finds a region in the state of its graph, by the alias of its barrier.
type stateKey string

type region struct {
	numOuts int
	bwd     Backward
}

// vjp has the signature of a graph.VJP for the region's barrier.
func (r *region) vjp(barrier *graph.Node, arriving []*graph.Node) []*graph.Node {
	outs, ins := barrier.Inputs()[:r.numOuts], barrier.Inputs()[r.numOuts:]
	dIns := r.bwd(slices.Clone(ins), slices.Clone(outs), slices.Clone(arriving[:r.numOuts]))
	if len(dIns) != len(ins) {
		exceptions.Panicf("customvjp: the backward function of %s returned %d gradients for %d inputs; return one for each input, nil for none",
			barrier.GetAlias(), len(dIns), len(ins))
	}
	for i, d := range dIns {
		if d != nil && !d.Shape().Equal(ins[i].Shape()) {
			exceptions.Panicf("customvjp: the backward function of %s returned a gradient of shape %s for input %d of shape %s",
				barrier.GetAlias(), d.Shape(), i, ins[i].Shape())
		}
	}
	return append(make([]*graph.Node, r.numOuts), dIns...)
}

func init() {
	plain := graph.VJPRegistration[graph.NodeTypeOptimizationBarrier]
	graph.VJPRegistration[graph.NodeTypeOptimizationBarrier] = func(n *graph.Node, arriving []*graph.Node, shape shapes.Shape) []*graph.Node {
		if alias := n.GetAlias(); alias != "" {
			if r, ok := n.Graph().State(stateKey(alias)).(*region); ok {
				return r.vjp(n, arriving)
			}
		}
		return plain(n, arriving, shape)
	}
}
