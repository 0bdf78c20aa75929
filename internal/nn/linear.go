package nn

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/matmul"
)

// boundAdapter is an adapter with the nodes of its A [R, In] and B [Out, R], float32.
type boundAdapter struct {
	*Adapter
	a, b  *Node
	scale *Node // float32 scalar; nil: Scaling
	rows  *Node // [rows or more, R] float32: factors on what A puts out for each row of the batch; nil: none
	// Of a DoRA, both [Out] float32: the magnitude, and the squared norms of the weight's rows; else nil.
	magnitude, square *Node
}

// scaled is x times the adapter's scaling.
func (a boundAdapter) scaled(x *Node) *Node {
	if a.scale == nil {
		return MulScalar(x, a.Scaling)
	}
	return Mul(x, ConvertDType(a.scale, x.DType()))
}

// chosen is low [B, S, R], what A puts out, as far as each row of the batch sees it.
func (a boundAdapter) chosen(low *Node) *Node {
	if a.rows == nil {
		return low
	}
	return Mul(low, ConvertDType(InsertAxes(SliceAxis(a.rows, 0, AxisRange(0, low.Shape().Dim(0))), 1), low.DType()))
}

// NormLinears is Linears of RMSNorm(x): the norm and the group of linears behind it.
func (l *Layer) NormLinears(x *Node, norm string, names ...string) []*Node {
	if f := l.factors(x, names); f != nil {
		if gain, trained := l.gain(norm); !trained {
			return l.split(l.shifted(l.fusedNormLinears(x, gain, f), f.linears), f.linears)
		}
	}
	return l.Linears(l.RMSNorm(x, norm), names...)
}

// Linears applies the linears of these names, which share the input x [B, S, In], each with its adapter.
func (l *Layer) Linears(x *Node, names ...string) []*Node {
	if f := l.factors(x, names); f != nil {
		return l.split(l.shifted(l.fusedLinears(x, nil, f), f.linears), f.linears)
	}
	r, ok := l.run(names)
	if !ok { // not stored as one
		var each []*Node
		for _, n := range names {
			each = append(each, l.Linear(x, n))
		}
		return each
	}
	return l.split(l.shifted(l.plainLinears(x, r), r.linears), r.linears)
}

// Linear applies the linear of that name to x [B, S, In] with its adapter, if it has one.
func (l *Layer) Linear(x *Node, name string) *Node { return l.Linears(x, name)[0] }

// AddLinear is x + Linear(y, name): what a sublayer adds to the residual stream x.
func (l *Layer) AddLinear(x, y *Node, name string) *Node {
	if f := l.factors(y, []string{name}); f != nil {
		return l.tape.value(KeepResidual, l.shifted(l.fusedLinears(y, x, f), f.linears))
	}
	return l.Residual(x, l.Linear(y, name))
}

// split cuts y [B, S, Σ Out] into the linears' outputs.
func (l *Layer) split(y *Node, linears []Linear) []*Node {
	var widths []int
	for _, lin := range linears {
		widths = append(widths, lin.Out)
	}
	return l.Cut(y, widths...)
}

// Cut cuts y [B, S, Σ widths] into parts of these widths: of one linear that holds several, as a group of linears is.
func (l *Layer) Cut(y *Node, widths ...int) []*Node {
	if len(widths) == 1 {
		return []*Node{y}
	}
	var each []*Node
	at := 0
	for _, n := range widths {
		each = append(each, SliceAxis(y, -1, AxisRange(at, at+n)))
		at += n
	}
	l.wholes[each[0]] = whole{y, each}
	l.tape.record(each, func(d []*Node) {
		for i, n := range each {
			if d[i] == nil {
				d[i] = ZerosLike(n)
			}
		}
		l.tape.add(y, Concatenate(d, -1))
	})
	return each
}

// run is neighbouring linears of one group, which one product computes.
type run struct {
	store
	group   *group
	linears []Linear
	first   int // their place in the group
}

// run finds the linears of these names; false if they are not neighbours in one group.
func (l *Layer) run(names []string) (run, bool) {
	s, _, g := l.find(names[0])
	first := slices.IndexFunc(g.linears, func(a Linear) bool { return a.Name == names[0] })
	linears := g.linears[first:min(first+len(names), len(g.linears))]
	if !slices.EqualFunc(linears, names, func(a Linear, n string) bool { return a.Name == n }) {
		return run{}, false
	}
	r := run{s, g, linears, first}
	return r, !l.replaced(r)
}

// complete tells whether the run is the whole group.
func (r run) complete() bool { return len(r.linears) == len(r.group.linears) }

// rows are those of n [Σ Out of the group, ...] that belong to the run.
func (r run) rows(n *Node) *Node {
	if r.complete() {
		return n
	}
	from := width(r.group.linears[:r.first])
	return SliceAxis(n, 0, AxisRange(from, from+width(r.linears)))
}

// find returns where the linear of that name is stored.
func (l *Layer) find(name string) (store, Linear, *group) {
	for _, s := range slices.Backward(l.stores) { // see copies.go
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

// plainLinears is x Wᵀ + b of the run with its adapters: [B, S, Σ Out].
func (l *Layer) plainLinears(x *Node, r run) *Node {
	if l.inputs != nil {
		for _, lin := range r.linears {
			l.inputs[lin.Name] = x
		}
	}
	ins := []*Node{x}
	for _, slot := range []int{r.group.weight, r.group.bias} {
		if slot >= 0 && r.layout.Slots[slot].Trainable {
			ins = append(ins, r.nodes[slot])
		}
	}
	for _, lin := range r.linears {
		if a, ok := l.adapters[lin.Name]; ok {
			ins = append(ins, a.a, a.b)
			if a.dora() {
				ins = append(ins, a.magnitude)
			}
		}
	}
	ins = append(ins, l.trainedOf(r.linears)...)
	return l.tape.plain(ins, func(in []*Node) []*Node {
		is := func(n *Node) *Node { // n, or what autodiff is to see in its place
			if i := slices.Index(ins, n); i >= 0 {
				return in[i]
			}
			return n
		}
		w := r.rows(l.weight(r, is))
		var bias *Node
		if r.group.bias >= 0 {
			bias = r.rows(is(r.nodes[r.group.bias]))
		}
		if l.hasTuned(r.linears) {
			return []*Node{l.applyTuned(in[0], w, bias, r.linears, is)}
		}
		if l.hasDora(r.linears) {
			return []*Node{l.plainDora(in[0], w, bias, l.lowRank(in[0], r.linears, is), r.linears, is)}
		}
		y := Dense(in[0], w)
		if bias != nil {
			y = addBias(y, bias)
		}
		if extra := l.lowRank(in[0], r.linears, is); extra != nil {
			y = Add(y, extra)
		}
		return []*Node{y}
	})[0]
}

func addBias(y, bias *Node) *Node {
	return Add(y, ExpandLeftToRank(ConvertDType(bias, y.DType()), y.Rank()))
}

// weight is the group's weight [Σ Out, In] in the compute dtype.
func (l *Layer) weight(r run, is func(*Node) *Node) *Node {
	if r.group.packed == nil {
		return ConvertDType(is(r.nodes[r.group.weight]), l.shape.Compute)
	}
	return r.group.packed.data.DequantizeNode(l.shape.Compute, r.codes()...)
}

// codes are the arrays of a packed weight.
func (r run) codes() (nodes []*Node) {
	for _, i := range r.group.packed.slots {
		nodes = append(nodes, r.nodes[i])
	}
	return nodes
}

// Dense is x Wᵀ for x [..., in] and w [out, in], in their dtype.
func Dense(x, w *Node) *Node { return matmul.Contract(x, -1, w, 1) }

// lowRank is the adapters' contribution to the outputs of linears that share the input x, side by side; nil when none
// has an adapter. Without dropout the As are one product.
func (l *Layer) lowRank(x *Node, linears []Linear, is func(*Node) *Node) *Node {
	var as []*Node
	share := true
	for _, lin := range linears {
		if a, ok := l.adapters[lin.Name]; ok {
			as = append(as, is(a.a))
			share = share && l.dropRate(a) == 0
		}
	}
	if len(as) == 0 {
		return nil
	}
	var inner *Node
	if share {
		inner = Dense(x, ConvertDType(Concatenate(as, 0), x.DType()))
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
			low = Dense(l.drop(x, a), ConvertDType(is(a.a), x.DType()))
		}
		low = a.chosen(low)
		parts = append(parts, Dense(a.scaled(low), ConvertDType(is(a.b), x.DType())))
	}
	return Concatenate(parts, -1)
}
