package nn

import (
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// DoRA (arXiv:2402.09353) gives each row of the adapted weight V = W + s·B·A a length of its own, the magnitude m:
//
//	y = (m / ‖V‖) ∘ (W x + s·B A x) + b
//
// The norm ‖V‖ [out] of the rows is a constant to the gradient, as in section 4.3 of the paper and in PEFT. It needs no V:
//
//	‖V‖² = ‖W‖² + 2 Σ (W Aᵀ) ∘ (s·B) + Σ (s·B (A Aᵀ)) ∘ (s·B)
//
// where ‖W‖² is computed once, when the adapter is attached. W Aᵀ is one thin product over a weight that the program has
// decoded anyway, so that the products of a linear stay those of a LoRA; a factor for each column of their result is what is
// added.

// dora tells whether the adapter has a magnitude.
func (a boundAdapter) dora() bool { return a.magnitude != nil }

// norm is ‖V‖ [out] in float32, for wa = W Aᵀ [out, R] in float32; no gradient passes.
func (a boundAdapter) norm(wa *Node) *Node {
	b := a.scaled(a.b)
	cross := ReduceSum(Mul(wa, b), -1)
	own := ReduceSum(Mul(contractWide(b, 1, contractWide(a.a, 1, a.a, 1), 0), b), -1)
	square := Add(Add(a.square, MulScalar(cross, 2)), own)
	return StopGradient(Sqrt(MaxScalar(square, 1e-30))) // rounding may take a row of zeros below
}

// hasDora tells whether one of the linears has a magnitude.
func (l *Layer) hasDora(linears []Linear) bool {
	return slices.ContainsFunc(linears, func(lin Linear) bool {
		a, ok := l.adapters[lin.Name]
		return ok && a.dora()
	})
}

// plainDora is x Wᵀ + b of linears side by side with their adapters, of which some have a magnitude; w [Σ out, in], bias
// [Σ out] or nil, low what the adapters add. Where a dropout lies before such an adapter, the weight's part of the change sees
// what is left of x, too.
func (l *Layer) plainDora(x, w, bias, low *Node, linears []Linear, is func(*Node) *Node) *Node {
	y := Dense(x, w)
	base, dropped := y, false
	var factors, through []*Node
	at := 0
	for _, lin := range linears {
		rows := AxisRange(at, at+lin.Out)
		a, ok := l.adapters[lin.Name]
		part := SliceAxis(y, -1, rows)
		factor := Ones(x.Graph(), shapes.Make(dtypes.Float32, lin.Out))
		if ok && a.dora() {
			own := SliceAxis(w, 0, rows)
			factor = Div(is(a.magnitude), a.norm(contractWide(own, 1, ConvertDType(a.a, w.DType()), 1)))
			if l.dropRate(a) > 0 {
				part, dropped = Dense(l.drop(x, a), own), true
			}
		}
		factors, through = append(factors, factor), append(through, part)
		at += lin.Out
	}
	factor := ExpandLeftToRank(Concatenate(factors, 0), y.Rank())
	wide := func(n *Node) *Node { return ConvertDType(n, dtypes.Float32) }
	if dropped {
		changed := Add(Mul(wide(Concatenate(through, -1)), AddScalar(factor, -1)), Mul(wide(low), factor))
		y = ConvertDType(Add(wide(base), changed), x.DType())
	} else {
		y = ConvertDType(Mul(Add(wide(y), wide(low)), factor), x.DType())
	}
	if bias != nil {
		y = addBias(y, bias)
	}
	return y
}

// magnitudes are those of a fused group: m and ‖V‖ [out] in float32, ones for linears that have none.
func (f *fused) magnitudes(w *Node) (m, norm *Node) {
	wa := contractWide(w, 1, padColumns(f.a, w.Shape().Dim(1)), 1) // [out, n]
	g := w.Graph()
	ones := func(n int) *Node { return Ones(g, shapes.Make(dtypes.Float32, n)) }
	var ms, norms []*Node
	row, column := 0, 0
	for i, a := range f.adapters {
		out := a.b.Shape().Dim(0)
		if gap := f.at[i] - row; gap > 0 {
			ms, norms = append(ms, ones(gap)), append(norms, ones(gap))
		}
		if a.dora() {
			ms, norms = append(ms, a.magnitude), append(norms, a.norm(Slice(wa, AxisRange(f.at[i], f.at[i]+out), AxisRange(column, column+a.R))))
		} else {
			ms, norms = append(ms, ones(out)), append(norms, ones(out))
		}
		row, column = f.at[i]+out, column+a.R
	}
	if gap := f.out - row; gap > 0 {
		ms, norms = append(ms, ones(gap)), append(norms, ones(gap))
	}
	return Concatenate(ms, 0), Concatenate(norms, 0)
}

// keepOf is with which other values what a group puts out is worth keeping.
func (f *fused) keepOf() Keep {
	switch {
	case f.out > 2*f.in: // gate and up
		return KeepGate
	case len(f.linears) > 1:
		return KeepAttention
	}
	return KeepResidual
}

// scaleColumns is m/‖V‖ ∘ y₀ + b of a fused group's product y₀ [B, S, out], added to residual unless that is nil. w is the
// group's weight [out, in or more]. Both the norm, which is the same for all rows, and y₀ can be kept: the backward pass needs
// y₀ for the magnitude's gradient alone.
func (l *Layer) scaleColumns(f *fused, y0, w, residual *Node) *Node {
	m, norm := f.magnitudes(w)
	d := y0.Shape().Dimensions
	norm = l.tape.constant(KeepSmall, BroadcastToDims(InsertAxes(norm, 0), d[0], f.out)) // row by row, as all that is kept
	norm = Reshape(SliceAxis(norm, 0, AxisRange(0, 1)), f.out)
	product := l.tape.constant(f.keepOf(), y0)
	wide := func(n *Node) *Node { return ConvertDType(n, dtypes.Float32) }
	factor := ExpandLeftToRank(Div(m, norm), 3)
	y := ConvertDType(Mul(wide(product), factor), y0.DType())
	if f.group.bias >= 0 {
		y = addBias(y, f.nodes[f.group.bias])
	}
	if residual != nil {
		y = Add(y, residual)
	}
	l.groups[y] = f.bare()
	l.tape.record([]*Node{y}, func(g []*Node) {
		dy := wide(g[0])
		if residual != nil {
			l.tape.add(residual, g[0])
		}
		dm := Div(ReduceSum(Mul(dy, wide(product)), 0, 1), norm)
		for i, a := range f.adapters {
			if a.dora() {
				l.tape.add(a.magnitude, SliceAxis(dm, 0, AxisRange(f.at[i], f.at[i]+a.b.Shape().Dim(0))))
			}
		}
		l.tape.add(y0, ConvertDType(Mul(dy, factor), y0.DType()))
	})
	return y
}

// RowSquares is ‖W‖² [Σ out] of the rows of a group's weight in float32, for the linears of these names, which are stored as
// one.
func (l *Layer) RowSquares(name string) *Node {
	_, _, g := l.find(name)
	var names []string
	for _, lin := range g.linears {
		names = append(names, lin.Name)
	}
	r, _ := l.run(names)
	w := ConvertDType(l.weight(r, func(n *Node) *Node { return n }), dtypes.Float32)
	return ReduceSum(Mul(w, w), -1)
}

// StoredTogether lists the linears of the layout as they are stored, those of one weight together.
func (l *Layout) StoredTogether() (groups [][]Linear) {
	for _, g := range l.groups {
		groups = append(groups, g.linears)
	}
	return groups
}
