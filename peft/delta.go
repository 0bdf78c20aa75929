package peft

import (
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/draw"
	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/safetensors/floats"
	"github.com/loris-ml/loris/models"
)

// What tuners share whose adapter is something that is added to the weight, on the host.

// lycorisDropout is what LoHa and LoKr drop while training: features of what the change of the weight puts out, and all of it. Each
// row of a batch draws for itself; in PEFT all rows of a forward pass share the draw.
type lycorisDropout struct {
	rank, module float64
	scaled       bool // what is left of the features grows by what was lost
}

func (d lycorisDropout) Key() string { return fmt.Sprint(d.rank, d.module, d.scaled) }

// probability is not 0 where anything is dropped.
func (d lycorisDropout) probability() float64 { return max(d.rank, d.module) }

// apply is delta [B, S, Out], what the change of the weight puts out, as far as it is kept.
func (d lycorisDropout) apply(o nn.Operands, delta *Node) *Node {
	if o.Draws == nil {
		return delta
	}
	kept := func(what string, n int, p float64) *Node { return inFloat32(draw.Keep(o.Draws(what, n), p)) }
	if d.rank > 0 {
		keep := kept("rank", delta.Shape().Dim(2), d.rank)
		if d.scaled {
			keep = Div(keep, MaxScalar(ReduceAndKeep(keep, ReduceMean, 1), 1e-30))
		}
		delta = Mul(delta, ConvertDType(InsertAxes(keep, 1), delta.DType()))
	}
	if d.module > 0 {
		delta = Mul(delta, ConvertDType(InsertAxes(kept("module", 1, d.module), 1), delta.DType()))
	}
	return delta
}

// addsDelta adds a change of the weight [out, in], sign times, which row returns row by row.
func addsDelta(t Target, sign float32, row func(o int, dst []float32)) models.LinearChange {
	return models.LinearChange{Weight: func(w []float32) {
		floats.InParallel(t.Out, 16, func(lo, hi int) {
			delta := make([]float32, t.In)
			for o := lo; o < hi; o++ {
				clear(delta)
				row(o, delta)
				for i, d := range delta {
					w[o*t.In+i] += sign * d
				}
			}
		})
	}}
}

// deltas are the merge and the unmerge of a change that row returns of the tensors' values.
func deltas(t Target, row func(values [][]float32) func(o int, dst []float32)) (merge, unmerge func([][]float32) models.LinearChange) {
	return func(v [][]float32) models.LinearChange { return addsDelta(t, 1, row(v)) },
		func(v [][]float32) models.LinearChange { return addsDelta(t, -1, row(v)) }
}

// addProductRow adds row o of a·b to dst, of a [_, k] and b [k, len(dst)].
func addProductRow(dst []float32, o int, a, b []float32) {
	n := len(dst)
	k := len(b) / n
	for j, f := range a[o*k : (o+1)*k] {
		for i, v := range b[j*n : (j+1)*n] {
			dst[i] += f * v
		}
	}
}

// productOf is a·b of a [m, k] and b [k, n].
func productOf(a, b []float32, m, n int) []float32 {
	c := make([]float32, m*n)
	for o := range m {
		addProductRow(c[o*n:(o+1)*n], o, a, b)
	}
	return c
}
