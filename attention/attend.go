package attention

import (
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/support/exceptions"

	"github.com/loris-ml/loris/internal/customvjp"
)

// Attend is attention of q [batch, q_seq, heads, head_dim] over k and v [batch, kv_seq, kv_heads, head_dim], all of one
// dtype (Float32, BFloat16, Float16); heads is a multiple of kv_heads, whose heads neighbouring query heads share. The
// result has q's shape and dtype and is differentiable in q, k, v and the bias. A query to which positions and segments leave
// no key gets zeros, and no gradient. Softmax and sums are float32.
func Attend(q, k, v *Node, o Options) *Node {
	out, _ := Forward(q, k, v, o)
	return out
}

// Forward is [Attend] that also returns the natural log-sum-exp of each query's scores, as they enter the softmax, float32
// [batch, heads, q_seq], without gradient; -1e20 where it sees no key. A program returns it beside out so that a
// later one goes on with [FromSaved].
func Forward(q, k, v *Node, o Options) (out, lse *Node) {
	c := newCall(q, k, v, o)
	c.settle()
	q, k, v = StopGradient(q), StopGradient(k), StopGradient(v)
	switch c.Route {
	case RouteDense:
		out, lse = c.dense(c.q, c.k, c.v)
		return out, StopGradient(lse)
	case RouteCuDNN:
		out, lse = c.cudnnForward(q, k, v, c.frozenBias())
	default:
		out, lse = newTiled(c, q, k, v, c.frozenBias()).forward()
	}
	return c.withBackward(out, lse, true), lse
}

// FromSaved is [Attend] whose value is out, which [Forward] returned with lse for the same inputs and options in an earlier
// program: the backward pass reruns no forward.
func FromSaved(q, k, v, out, lse *Node, o Options) *Node {
	c := newCall(q, k, v, o)
	c.settle()
	if want := shapes.Make(dtypes.Float32, c.batch, c.heads, c.queries); !out.Shape().Equal(q.Shape()) || !lse.Shape().Equal(want) {
		exceptions.Panicf("attention: FromSaved got out %s and lse %s; want what Forward returned, %s and %s", out.Shape(), lse.Shape(), q.Shape(), want)
	}
	return c.withBackward(out, lse, false)
}

// frozenBias is the bias as the forward of a custom gradient reads it; nil without one.
func (c *call) frozenBias() *Node {
	if c.Bias == nil {
		return nil
	}
	return StopGradient(c.Bias)
}

// withBackward makes out a function of q, k, v and the bias. afresh says that the forward lies in the same graph.
func (c *call) withBackward(out, lse *Node, afresh bool) *Node {
	inputs := []*Node{c.q, c.k, c.v}
	if c.Bias != nil {
		inputs = append(inputs, c.Bias)
	}
	return customvjp.Apply([]*Node{out, lse}, inputs, func(ins, outs, dOuts []*Node) []*Node {
		dOut := dOuts[0]
		if c.Route != RouteCuDNN && afresh {
			// Keep compilers from taking the forward's scores, all of them, for the ones to be computed again.
			guarded := OptimizationBarriers(append(ins, dOut)...)
			ins, dOut = guarded[:len(ins)], guarded[len(ins)]
		}
		var bias *Node
		if c.Bias != nil {
			bias = ins[3]
		}
		if c.Route == RouteCuDNN {
			return c.cudnnBackward(ins[0], ins[1], ins[2], bias, outs[0], outs[1], dOut)
		}
		return newTiled(c, ins[0], ins[1], ins[2], bias).backward(outs[0], outs[1], dOut)
	})[0]
}
