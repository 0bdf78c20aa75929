package nn

import (
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/kernels"
	"github.com/loris-ml/loris/internal/matmul"
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
func (f *fused) product8(x, low *Node) *Node {
	y, s := kernels.Float8Product(x, f.weight8(), false)
	if low != nil {
		y = Add(y, Dense(unscale(low, s), f.b))
	}
	return rescale(y, s)
}

// through8 is the gradient at the group's input [B·S, in], for what factorGradients returned.
func (f *fused) through8(dy, p *Node) *Node {
	dx, s := kernels.Float8Product(dy, f.weight8(), true)
	if p == nil {
		return rescale(dx, s)
	}
	if f.drop != nil {
		return Add(rescale(dx, s), kernels.DropoutProduct(f.drop.scaled(p), f.a, f.drop.Dropout))
	}
	return rescale(Add(dx, matmul.Contract(unscale(p, s), 1, f.a, 0)), s)
}

// normProduct8 is product8 of RMSNorm(x), for xa [B·S, n] as kernels.RMSNorm takes it; with rstd [B·S] and low, nil without
// adapters.
func (l *Layer) normProduct8(x, gain, xa *Node, f *fused) (y, rstd, low *Node) {
	h, rstd, _ := kernels.RMSNorm(x, gain, nil, 0, l.shape.NormEps, l.shape.UnitOffset)
	if xa != nil {
		low = ConvertDType(Mul(xa, InsertAxes(rstd, 1)), x.DType())
	}
	return f.product8(h, low), rstd, low
}

// weight8 is the group's weight as kernels.Float8Product takes it.
func (f *fused) weight8() kernels.Float8Weight {
	if p := f.group.packed; p != nil {
		return kernels.Float8Weight{Layout: p.data, Packed: f.codes()}
	}
	return kernels.Float8Weight{Dense: f.nodes[f.group.weight]}
}

// unscale and rescale are x [T, n] divided and multiplied by s [T], powers of two.
func unscale(x, s *Node) *Node {
	return ConvertDType(Div(ConvertDType(x, dtypes.Float32), InsertAxes(s, 1)), x.DType())
}

func rescale(x, s *Node) *Node {
	return ConvertDType(Mul(ConvertDType(x, dtypes.Float32), InsertAxes(s, 1)), x.DType())
}
