package nn

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/kernels"
)

// With Shape.Float8, the products of frozen weights in the fused form are in float8 E4M3, forward and backward; adapters, norms,
// attention and the head stay in the compute dtype. Activations and gradients have a scale for each row, weights one:
//
//	y  = (x₈·W₈ᵀ + (low/s)·Bᵀ) · s      low = x·Aᵀ
//	dx = (dy₈·W₈ + (p/s)·A) · s         p = dy·B     dA = pᵀ·x     dB = dyᵀ·low
//
// x₈ and dy₈ are the rows divided by their scales and rounded, W₈ the weight; s is the product of the scales, [B·S]. All of these are
// powers of two, so that dividing low before and multiplying behind costs no precision. x and dy themselves are what A, B
// and their gradients see.
//
// DoRA's linears, whose norms need the weight, products of few rows while text is generated, and what the fused form does
// not cover at all, are computed in the compute dtype.

// product8 is the group's product of x [B·S, in or more] with low, what the As put out; nil without adapters.
func (f *fused) product8(x, low *Node) kernels.Rows {
	if low == nil {
		return kernels.Float8Product(x, f.weight8(false), nil, nil)
	}
	return kernels.Float8Product(x, f.weight8(false), low, f.b)
}

// through8 is the gradient at the group's input [B·S, in], for what factorGradients returned.
func (f *fused) through8(dy, p *Node) kernels.Rows {
	switch {
	case p == nil:
		return kernels.Float8Product(dy, f.weight8(true), nil, nil)
	case f.drop != nil:
		dx := kernels.Float8Product(dy, f.weight8(true), nil, nil)
		return kernels.Rows{X: Add(dx.Product(), kernels.DropoutProduct(f.drop.scaled(p), f.a, f.drop.Dropout))}
	}
	return kernels.Float8Product(dy, f.weight8(true), p, Transpose(f.a, 0, 1))
}

// normProduct8 is the group's product [B, S, out] of RMSNorm(x), for xa [B·S, n] as kernels.RMSNorm takes it; with rstd [B·S] and low,
// nil without adapters.
func (l *Layer) normProduct8(x, gain, xa *Node, f *fused) (y, rstd, low *Node) {
	rows, rstd, low := kernels.Float8NormProduct(flat(x), gain, xa, l.shape.NormEps, l.shape.UnitOffset, f.weight8(false), f.b)
	y = f.finish(rows.Product(), x)
	if f.group.bias < 0 {
		l.raw[y] = rows
	}
	return y, rstd, low
}

// gateRows are the rows of gate and up as what is kept of them, and the node at which their gradient arrives. In float8 they
// are kept without their scales, which the activation applies.
func (l *Layer) gateRows(both *Node) (rows kernels.Rows, arrives *Node) {
	raw, ok := l.raw[both]
	if !ok {
		both = l.tape.value(KeepGate, both)
		return kernels.Rows{X: flat(both)}, both
	}
	d := both.Shape().Dimensions
	x := l.tape.constant(KeepGate, Reshape(raw.X, d...))
	scale := l.tape.constant(KeepGate, Reshape(raw.Scale, d[:2]...))
	return kernels.Rows{X: flat(x), Scale: Reshape(scale, -1)}, both
}

// weight8 is the group's weight as kernels.Float8Product takes it.
func (f *fused) weight8(transposed bool) kernels.Float8Weight {
	if p := f.group.packed; p != nil {
		return kernels.Float8Weight{Layout: p.data, Packed: f.codes(), Transposed: transposed}
	}
	return kernels.Float8Weight{Dense: f.nodes[f.group.weight], Transposed: transposed}
}
