package nn

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// boundAdapter is an adapter with the nodes of its A [R, In] and B [Out, R], float32.
type boundAdapter struct {
	*Adapter
	a, b *Node
}

// NormLinears is Linears of RMSNorm(x): the norm and the group of linears behind it.
func (l *Layer) NormLinears(x *Node, norm string, names ...string) []*Node {
	return l.Linears(l.RMSNorm(x, norm), names...)
}

// Linear applies the linear of that name to x [..., In] with its adapter, if it has one. Its value is not kept for the
// backward pass: it is meant for outputs that only go into the residual stream.
func (l *Layer) Linear(x *Node, name string) *Node {
	y, _ := l.product(x, []string{name})
	return y
}

// Linears applies the linears of these names, which share the input x [..., In], each with its adapter, and keeps the
// outputs.
func (l *Layer) Linears(x *Node, names ...string) []*Node {
	y, ok := l.product(x, names)
	if !ok { // not stored as one
		var each []*Node
		for _, n := range names {
			each = append(each, l.tape.value(KeepLinears, l.Linear(x, n)))
		}
		return each
	}
	y = l.tape.value(KeepLinears, y)
	var each []*Node
	at := 0
	for _, n := range names {
		_, lin, _ := l.find(n)
		each = append(each, SliceAxis(y, -1, AxisRange(at, at+lin.Out)))
		at += lin.Out
	}
	return each
}

// product is x Wᵀ + b of neighbouring linears of one group, with their adapters: [..., Σ Out]. It reports whether these
// are that.
func (l *Layer) product(x *Node, names []string) (*Node, bool) {
	s, _, g := l.find(names[0])
	first := slices.IndexFunc(g.linears, func(a Linear) bool { return a.Name == names[0] })
	run := g.linears[first:min(first+len(names), len(g.linears))]
	if !slices.EqualFunc(run, names, func(a Linear, n string) bool { return a.Name == n }) {
		return nil, false
	}
	rows := func(n *Node) *Node { // what of the group's rows belongs to the run
		if len(run) == len(g.linears) {
			return n
		}
		from := width(g.linears[:first])
		return SliceAxis(n, 0, AxisRange(from, from+width(run)))
	}
	y := Dense(x, rows(l.weight(s, g)))
	if g.bias >= 0 {
		y = Add(y, ExpandLeftToRank(ConvertDType(rows(s.nodes[g.bias]), x.DType()), y.Rank()))
	}
	if extra := l.lowRank(x, run); extra != nil {
		y = Add(y, extra)
	}
	return y, true
}

// find returns where the linear of that name is stored.
func (l *Layer) find(name string) (store, Linear, *group) {
	for _, s := range l.stores {
		for _, g := range s.layout.groups {
			for _, lin := range g.linears {
				if lin.Name == name {
					return s, lin, g
				}
			}
		}
	}
	panic(fmt.Errorf("the layer has no linear %q", name))
}

// weight is the group's weight [Σ Out, In] in the compute dtype.
func (l *Layer) weight(s store, g *group) *Node {
	if g.packed == nil {
		return ConvertDType(s.nodes[g.weight], l.shape.Compute)
	}
	var data []*Node
	for _, i := range g.packed.slots {
		data = append(data, s.nodes[i])
	}
	return g.packed.data.DequantizeNode(l.shape.Compute, data...)
}

// Dense is x Wᵀ for x [..., in] and w [out, in]. In bfloat16 the product is left in the operands' dtype: with a
// float32 accumulator named here, the backward pass would convert its operands and run float32 products. The
// accumulation inside the product is float32 all the same.
func Dense(x, w *Node) *Node {
	return Dot(x, w).WithAccumulatorDType(dtypes.InvalidDType).General([]int{-1}, nil, []int{1}, nil)
}

// lowRank is the adapters' contribution to the outputs of linears that share the input x, side by side; nil when none
// has an adapter. Without dropout the As are one product.
func (l *Layer) lowRank(x *Node, linears []Linear) *Node {
	var as []*Node
	share := true
	for _, lin := range linears {
		if a, ok := l.adapters[lin.Name]; ok {
			as = append(as, a.a)
			share = share && l.dropRate(a) == 0
		}
	}
	if len(as) == 0 {
		return nil
	}
	var inner *Node
	if share {
		inner = Dense(x, ConvertDType(concat(as, 0), x.DType()))
	}
	var parts []*Node
	at := 0
	for _, lin := range linears {
		a, ok := l.adapters[lin.Name]
		if !ok {
			dims := slices.Clone(x.Shape().Dimensions)
			dims[len(dims)-1] = lin.Out
			parts = append(parts, Zeros(x.Graph(), shapes.Make(x.DType(), dims...)))
			continue
		}
		low := inner
		if share {
			low = SliceAxis(inner, -1, AxisRange(at, at+a.R))
			at += a.R
		} else {
			low = Dense(l.drop(x, a), ConvertDType(a.a, x.DType()))
		}
		parts = append(parts, Dense(MulScalar(low, a.Scaling), ConvertDType(a.b, x.DType())))
	}
	return concat(parts, -1)
}

func concat(parts []*Node, axis int) *Node {
	if len(parts) == 1 {
		return parts[0]
	}
	return Concatenate(parts, axis)
}
