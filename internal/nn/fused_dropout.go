package nn

import (
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/kernels"
	"github.com/loris-ml/loris/internal/matmul"
)

// With dropout before the adapters, the forward product is still one, [x | low | 0] · [W | B | 0]ᵀ; only low is a product
// of what dropout keeps of x. A norm before the group can be applied to it afterwards as before, because dropout zeroes
// the same elements on either side of it. Backwards, what the adapters add to dx is masked, which no matrix product does:
// it is computed apart, and the large product accumulates onto it.

// dropping is the dropout before the adapters of a group; nil is none.
type dropping struct {
	kernels.Dropout
	scale []float32 // 1/(1-rate) for each rank
}

// dropping returns the dropout before these adapters in rows of length tokens.
func (l *Layer) dropping(length int, adapters []boundAdapter) *dropping {
	d, some := &dropping{}, false
	var keys []*Node
	for _, a := range adapters {
		rate := l.dropRate(a)
		some = some || rate > 0
		d.Rates, d.Ranks = append(d.Rates, rate), append(d.Ranks, a.R)
		for range a.R {
			d.scale = append(d.scale, float32(1/(1-rate)))
		}
	}
	if !some {
		return nil
	}
	for _, a := range adapters {
		keys = append(keys, InsertAxes(l.tokenKeys(a, length), 0))
	}
	d.Keys = Concatenate(keys, 0)
	return d
}

// scaled is x with its columns, one for each rank, times 1/(1-rate), which is no number of bfloat16.
func (d *dropping) scaled(x *Node) *Node {
	return ConvertDType(Mul(ConvertDType(x, dtypes.Float32), Const(x.Graph(), [][]float32{d.scale})), x.DType())
}

// low is dropout(x)·aᵀ in float32, [T, n], for x [T, in or more] and a [n, in].
func (d *dropping) low(x, a *Node) *Node {
	if d == nil {
		return contractWide(x, 1, padColumns(a, x.Shape().Dim(1)), 1)
	}
	return d.scaled(kernels.DropoutLow(x, a, d.Dropout))
}

// gradient is pᵀ·dropout(x) in float32, [n, in or more], for p [T, n] and x [T, in or more].
func (d *dropping) gradient(p, x *Node, in int) *Node {
	if d == nil {
		return contractWide(p, 0, x, 0)
	}
	return d.times(kernels.DropoutGradient(p, x, in, d.Dropout))
}

// times is dA [n, in] with its rows, one for each rank, times 1/(1-rate).
func (d *dropping) times(dA *Node) *Node {
	if d == nil {
		return dA
	}
	return Mul(dA, InsertAxes(Const(dA.Graph(), d.scale), 1))
}

// behind is the dropout before one adapter, whose A is wide, as kernels.GatedBackward takes it.
func (d *dropping) behind(wide *Node, dtype dtypes.DType) *kernels.Behind {
	if d == nil {
		return nil
	}
	return &kernels.Behind{Dropout: d.Dropout, A: ConvertDType(d.times(wide), dtype)}
}

// thin is dropout(x)·Aᵀ in x's dtype, for x [T, in] or with more columns, which are zeros.
func (f *fused) thin(x *Node) *Node {
	if f.drop == nil {
		return Dense(x, padColumns(f.a, x.Shape().Dim(1)))
	}
	return ConvertDType(f.drop.low(x, f.a), x.DType())
}

// arrived is the gradient d at the group's product as a matrix, with room for p, or zeros if they are there anyway.
func (l *Layer) arrived(f *fused, d *Node) *Node {
	if b, ok := l.buffers[d]; (f.drop != nil || f.float8) && !(ok && b.clean && b.data.Shape().Dim(1) == f.out+f.pad) {
		return flat(d)
	}
	return l.roomy(d, f.pad)
}

// through is the gradient at the group's input, [T, in], for what factorGradients returned; with dropout and without p it lacks what
// the adapters add.
func (f *fused) through(dy, p *Node) kernels.Rows {
	if f.float8 {
		return f.through8(dy, p)
	}
	if f.drop == nil {
		return kernels.Rows{X: matmul.Contract(dy, 1, f.below(dy.DType()), 0)}
	}
	dx := matmul.Contract(dy, 1, f.above(dy.Shape().Dim(1)-f.out, dy), 0)
	if p != nil {
		dx = Add(dx, kernels.DropoutProduct(f.drop.scaled(p), f.a, f.drop.Dropout))
	}
	return kernels.Rows{X: dx}
}

// above is [W ; 0] with so many rows of zeros.
func (f *fused) above(zeros int, like *Node) *Node {
	if zeros == 0 {
		return f.weight(like.DType())
	}
	if f.group.packed != nil {
		return kernels.DequantizeRows(f.group.packed.data, like.DType(), nil, zeros, f.codes()...)
	}
	return f.dense(like.DType(), Zeros(like.Graph(), shapes.Make(like.DType(), zeros, f.in)), 0)
}
