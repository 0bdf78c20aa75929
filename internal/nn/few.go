package nn

import (
	"github.com/gomlx/compute/dtypes"
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

// stacked are the As [n, in] and the Bs [out, n] times their scaling of a group, n a multiple of factor; of a group with
// DoRA also the factors m/‖V‖ [out], else nil.
type stacked struct{ a, b, scale *Node }

// Stack returns for each group of linears that has adapters, in the order of the layout, what stands for them while text is
// generated.
func (l *Layer) Stack() (nodes []*Node) {
	l.eachStack(func(f *fused) {
		f.stack(l.shape.Compute)
		s := f.stacked()
		if nodes = append(nodes, s.a, s.b); f.dora {
			nodes = append(nodes, s.scale)
		}
	})
	return nodes
}

// Stacked is how many nodes Stack returns.
func (l *Layer) Stacked() (n int) {
	l.eachStack(func(f *fused) {
		if n += 2; f.dora {
			n++
		}
	})
	return n
}

// UseStack makes the layer take what Stack has returned, in another program, for its adapters.
func (l *Layer) UseStack(nodes []*Node) *Layer {
	l.stacks = map[string]stacked{}
	l.eachStack(func(f *fused) {
		s := stacked{a: nodes[0], b: nodes[1]}
		if nodes = nodes[2:]; f.dora {
			s.scale, nodes = nodes[0], nodes[1:]
		}
		l.stacks[f.linears[0].Name] = s
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
	s := stacked{a: pad(f.a, 0, n), b: padColumns(f.b, n)}
	if f.dora {
		m, norm := f.magnitudes(f.weight(f.a.DType()))
		s.scale = Div(m, norm)
	}
	return s
}

// few tells whether x has few enough rows, while text is generated.
func (l *Layer) few(x *Node) bool {
	d := x.Shape().Dimensions
	return l.cache != nil && d[0]*d[1] <= kernels.MaxProductRows
}

// fewNormLinears is the group of linears of RMSNorm(x): [B, S, out].
func (l *Layer) fewNormLinears(x, gain *Node, f *fused) *Node {
	if f.n == 0 && f.group.packed != nil { // nobody else wants the norm
		return l.fewProduct(x, f, kernels.ProductOptions{Gain: gain, Eps: l.shape.NormEps, Offset: l.shape.UnitOffset})
	}
	h, _, _ := kernels.RMSNorm(flat(x), gain, nil, 0, l.shape.NormEps, l.shape.UnitOffset)
	return l.fewLinears(Reshape(h, x.Shape().Dimensions...), nil, f)
}

// fewLinears is the group of linears of x [B, S, in], added to residual [B, S, out] unless that is nil.
func (l *Layer) fewLinears(x, residual *Node, f *fused) *Node {
	var o kernels.ProductOptions
	var s stacked
	if f.n > 0 {
		var ok bool
		if s, ok = l.stacks[f.linears[0].Name]; !ok {
			s = f.stacked()
		}
		o.Low, o.Tail = f.chosen(Dense(flat(x), s.a), x), s.b
	}
	if f.dora {
		y := l.fewProduct(x, f, o)
		y = ConvertDType(Mul(ConvertDType(y, dtypes.Float32), ExpandLeftToRank(s.scale, y.Rank())), x.DType())
		if f.group.bias >= 0 {
			y = addBias(y, f.nodes[f.group.bias])
		}
		if residual != nil {
			y = Add(y, residual)
		}
		return y
	}
	if residual != nil {
		o.Residual, o.Then = flat(residual), kernels.ThenAdd
	}
	return l.fewProduct(x, f, o)
}

// fewProduct is x [B, S, in] times the weight of the group, before DoRA's factors, and without the bias where those follow.
func (l *Layer) fewProduct(x *Node, f *fused, o kernels.ProductOptions) *Node {
	if f.group.packed == nil {
		y := Dense(flat(x), f.dense(x.DType(), nil, 1))
		if f.n > 0 {
			y = Add(y, Dense(o.Low, o.Tail))
		}
		if o.Residual != nil {
			y = Add(y, o.Residual)
		}
		return f.finish(y, x)
	}
	product := func(then kernels.ProductThen) *Node {
		o.Then = then
		return kernels.Product(f.group.packed.data, flat(x), o, f.codes()...)
	}
	y := f.finish(product(o.Then), x)
	if o.Then == kernels.ThenNothing && !f.dora && f.group.bias < 0 && len(f.linears) == 2 && f.linears[0].Out == f.linears[1].Out {
		d := x.Shape().Dimensions
		l.products[y] = func(a kernels.Activation) *Node { // then y itself is of no use, and the compiler drops it
			return Reshape(product(kernels.ThenGated(a)), d[0], d[1], f.linears[0].Out)
		}
	}
	return y
}
