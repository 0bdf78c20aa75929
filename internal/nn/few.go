package nn

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/kernels"
)

// The linears while text is generated have few rows, and reading the weights is what takes time. A packed weight is then
// decoded within its product, which takes along what follows it:
//
//	y = x·Wᵀ + low·Bᵀ, plus the residual stream or through the gated activation     low = x·Aᵀ
//
// A and B do not change from token to token: a program of its own stacks them once, see [Layer.Stack].

// factor is how a stack's rank is rounded up, with zeros.
const factor = 16

// stacked are the As [n, in] and the Bs [out, n] times their scaling of a group, n a multiple of factor.
type stacked struct{ a, b *Node }

// Stack returns for each group of linears that has adapters, in the order of the layout, what stands for them while text is
// generated.
func (l *Layer) Stack() (nodes []*Node) {
	l.eachStack(func(f *fused) {
		f.stack(l.shape.Compute)
		s := f.stacked()
		nodes = append(nodes, s.a, s.b)
	})
	return nodes
}

// Stacked is how many nodes Stack returns.
func (l *Layer) Stacked() (n int) {
	l.eachStack(func(*fused) { n += 2 })
	return n
}

// UseStack makes the layer take what Stack has returned, in another program, for its adapters.
func (l *Layer) UseStack(nodes []*Node) *Layer {
	l.stacks = map[string]stacked{}
	l.eachStack(func(f *fused) {
		l.stacks[f.linears[0].Name] = stacked{nodes[0], nodes[1]}
		nodes = nodes[2:]
	})
	return l
}

// eachStack calls do with every group that has adapters.
func (l *Layer) eachStack(do func(f *fused)) {
	for _, s := range l.stores {
		for _, g := range s.layout.groups {
			if f := l.adapted(run{store: s, group: g, linears: g.linears}); f.n > 0 {
				do(f)
			}
		}
	}
}

func (f *fused) stacked() stacked {
	n := (f.n + factor - 1) / factor * factor
	return stacked{pad(f.a, 0, n), padColumns(f.b, n)}
}

// few tells whether x has few enough rows, while text is generated.
func (l *Layer) few(x *Node) bool {
	d := x.Shape().Dimensions
	return l.cache != nil && d[0]*d[1] <= kernels.MaxProductRows
}

// fewNormLinears is the group of linears of RMSNorm(x): [B, S, out].
func (l *Layer) fewNormLinears(x, gain *Node, f *fused) *Node {
	h, _, _ := kernels.RMSNorm(flat(x), gain, nil, 0, l.shape.NormEps, l.shape.UnitOffset)
	return l.fewLinears(Reshape(h, x.Shape().Dimensions...), nil, f)
}

// fewLinears is the group of linears of x [B, S, in], added to residual [B, S, out] unless that is nil.
func (l *Layer) fewLinears(x, residual *Node, f *fused) *Node {
	rows, dtype := flat(x), x.DType()
	var low, b *Node
	if f.n > 0 {
		s, ok := l.stacks[f.linears[0].Name]
		if !ok {
			s = f.stacked()
		}
		low, b = Dense(rows, s.a), s.b
	}
	if f.group.packed == nil {
		y := Dense(rows, f.dense(dtype, nil, 1))
		if f.n > 0 {
			y = Add(y, Dense(low, b))
		}
		if residual != nil {
			y = Add(y, flat(residual))
		}
		return f.finish(y, x)
	}
	product := func(residual *Node, then kernels.ProductThen) *Node {
		return kernels.Product(f.group.packed.data, rows, low, b, residual, then, f.codes()...)
	}
	if residual != nil {
		return f.finish(product(flat(residual), kernels.ThenAdd), x)
	}
	y := f.finish(product(nil, kernels.ThenNothing), x)
	if f.group.bias < 0 && len(f.linears) == 2 && f.linears[0].Out == f.linears[1].Out {
		d := x.Shape().Dimensions
		l.products[y] = func(a kernels.Activation) *Node { // then y itself is of no use, and the compiler drops it
			return Reshape(product(nil, kernels.ThenGated(a)), d[0], d[1], f.linears[0].Out)
		}
	}
	return y
}
