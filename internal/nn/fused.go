package nn

import (
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/kernels"
	"github.com/loris-ml/loris/internal/matmul"
)

// The fused form of the linears. A group's weight W [out, in] and its adapters are one matrix product, because the
// adapters' factors ride along in room that the operands leave beside them:
//
//	y  = [x | low | 0] · [W | B | 0]ᵀ     low = x·Aᵀ
//	dx = [dy | p | 0] · [W ; A ; 0]       p = dy·B     dA = pᵀ·x     dB = dyᵀ·low
//
// A stacks the As of the group's adapters, [n, in]; B has theirs on its diagonal, [out, n], times their scaling. Packed
// weights are decoded by the same kernel that writes the factor beside or below them. So adapters cost no pass of their
// own over x, y, dx or dy.
//
// A norm before the group is applied afterwards to low (kernels.RMSNorm), so that x is read once; in the backward pass
// the norm takes in what has arrived at the residual stream meanwhile.

// room is how many columns primitives leave behind activations for the factors of whoever uses them.
const room = 64

// fusion is what the fused primitives of a layer know of each other's values.
type fusion struct {
	wholes  map[*Node]whole  // by the first part
	buffers map[*Node]buffer // by the node that is the buffer's head
	groups  map[*Node]*fused // by the product of a group
	gated   map[*Node]int    // by a gated activation, whose backward takes adapters of that rank along
	early   map[*Node]early  // by a gradient of a group's product
	late    map[*Node]late   // by the gradient of a gated activation

	// lows, by a gated activation of many rows with room, return it with an adapter's product behind it, and that product.
	lows map[*Node]func(a *Node) (act, low *Node)
	// products, by a product of gate and up of few rows, return the activation of the one times the other.
	products map[*Node]func(a kernels.Activation) *Node
	// raw, by products in float8, are their rows before they are multiplied by their scales; see fp8.go.
	raw map[*Node]kernels.Rows
	// unrotated, by rotated queries, are the queries, keys and values that they come from.
	unrotated map[*Node]*Node
}

// early are products for a group's factors that came with the gradient of its product, as kernels.SumsOfFactors takes them.
type early struct{ p, dB *Node }

// late is what the backward of an activation is to do for the linear behind it.
type late struct {
	p      *Node           // dy·B of that linear [B·S, R]
	addA   func(dA *Node)  // takes pᵀ·activation [R, in]
	behind *kernels.Behind // what the activation went through before A; nil: nothing
}

func newFusion() fusion {
	return fusion{
		map[*Node]whole{}, map[*Node]buffer{}, map[*Node]*fused{}, map[*Node]int{}, map[*Node]early{}, map[*Node]late{},
		map[*Node]func(a *Node) (act, low *Node){}, map[*Node]func(a kernels.Activation) *Node{}, map[*Node]kernels.Rows{}, map[*Node]*Node{},
	}
}

// whole is a product of a group, whose columns parts are.
type whole struct {
	y     *Node
	parts []*Node
}

// whole returns the product whose columns these are; nil if there is none.
func (l *Layer) whole(parts []*Node) *Node {
	w, ok := l.wholes[parts[0]]
	if !ok || len(w.parts) != len(parts) {
		return nil
	}
	for i, n := range w.parts {
		if n != parts[i] {
			return nil
		}
	}
	return w.y
}

// buffer is a matrix [B·S, n + more] whose first n columns are an activation or gradient [B, S, n].
type buffer struct {
	data  *Node
	clean bool // the columns behind are zeros
}

// AddRoom is x [B, S, n] as a matrix [B·S, n+room] with zeros behind, without a copy where a primitive left it so.
func (t *Tape) AddRoom(x *Node) *Node { return t.roomy(x, room) }

// DropRoom is the inverse of AddRoom: its first columns in the shape of like.
func (t *Tape) DropRoom(x, like *Node) *Node { return t.head(x, like, true) }

// head returns the first columns of data in the shape of like, and remembers what lies behind.
func (l *fusion) head(data, like *Node, clean bool) *Node {
	d := like.Shape().Dimensions
	n := Reshape(SliceAxis(data, 1, AxisRange(0, d[len(d)-1])), d...)
	l.buffers[n] = buffer{data, clean}
	return n
}

// flat is x [B, S, n] as a matrix [B·S, n].
func flat(x *Node) *Node {
	d := x.Shape().Dimensions
	return Reshape(x, -1, d[len(d)-1])
}

// roomy is x [B, S, n] as a matrix [B·S, n+pad] with zeros behind.
func (l *fusion) roomy(x *Node, pad int) *Node {
	n := x.Shape().Dim(-1)
	if b, ok := l.buffers[x]; ok && b.clean && b.data.Shape().Dim(1) == n+pad {
		return b.data
	}
	return padColumns(flat(x), n+pad)
}

// atLeast is x [B, S, n] as a matrix whose first n columns count.
func (l *fusion) atLeast(x *Node) *Node {
	if b, ok := l.buffers[x]; ok {
		return b.data
	}
	return flat(x)
}

// pad is x followed by zeros along the axis up to size.
func pad(x *Node, axis, size int) *Node {
	d := append([]int{}, x.Shape().Dimensions...)
	if d[axis] == size {
		return x
	}
	d[axis] = size - d[axis]
	return Concatenate([]*Node{x, Zeros(x.Graph(), shapes.Make(x.DType(), d...))}, axis)
}

func padColumns(x *Node, n int) *Node { return pad(x, 1, n) }

// put writes p into the columns of x from at on.
func put(x, p *Node, at int) *Node {
	g := x.Graph()
	return DynamicUpdateSlice(x, ConvertDType(p, x.DType()), []*Node{Const(g, int32(0)), Const(g, int32(at))})
}

// contractWide is the product over one axis of each, in float32.
func contractWide(x *Node, xAxis int, y *Node, yAxis int) *Node {
	return matmul.Wide(x, []int{xAxis}, nil, y, []int{yAxis}, nil)
}

// fused is a group with the working copies of its adapters in the compute dtype.
type fused struct {
	run
	adapters []boundAdapter // of the linears that have one
	at       []int          // first row in the group's output of each adapter's linear
	out, in  int
	n        int // Σ R
	pad      int // n and zeros up to a multiple of room; 0 without adapters
	as, bs   []kernels.Factor
	wide     *Node // the As [n, in], float32
	a        *Node // the As [n, in]
	b        *Node // the Bs [out, n] times their scaling
	low      *Node // x·Aᵀ [B·S, n]
	drop     *dropping
	dora     bool // some adapter has a magnitude: see scaleColumns
	float8   bool // see fp8.go
}

// factors prepares the linears of these names for the fused form; nil where that does not cover them: parts of a group,
// trained weights.
func (l *Layer) factors(x *Node, names []string) *fused {
	if !l.fused(x) {
		return nil
	}
	r, ok := l.run(names)
	if !ok || !r.complete() || l.hasTuned(r.linears) {
		return nil
	}
	for _, slot := range []int{r.group.weight, r.group.bias} {
		if slot >= 0 && r.layout.Slots[slot].Trainable {
			return nil
		}
	}
	f := l.adapted(r)
	for _, a := range f.adapters {
		if a.rows != nil && l.tape != nil || a.dora() && l.dropRate(a) > 0 {
			return nil // the fused form learns nothing by rows, and has no DoRA of dropped inputs
		}
	}
	if f.n > 0 {
		f.pad = (f.n + room - 1) / room * room
		f.stack(x.DType())
		f.drop = l.dropping(x.Shape().Dim(1), f.adapters)
	}
	f.float8 = l.shape.Float8 && !f.dora && !l.few(x)
	return f
}

// adapted are the linears of a whole group with their adapters.
func (l *Layer) adapted(r run) *fused {
	f := &fused{run: r, out: width(r.linears), in: r.linears[0].In}
	at := 0
	for _, lin := range r.linears {
		if a, ok := l.adapters[lin.Name]; ok {
			f.dora = f.dora || a.dora()
			f.adapters, f.at, f.n = append(f.adapters, a), append(f.at, at), f.n+a.R
		}
		at += lin.Out
	}
	return f
}

// byRows tells whether rows of the batch choose among adapters.
func (f *fused) byRows() bool {
	return slices.ContainsFunc(f.adapters, func(a boundAdapter) bool { return a.rows != nil })
}

// chosen is low [B·S, n or more], what the As put out for x [B, S, in], as far as each row of the batch sees it.
func (f *fused) chosen(low, x *Node) *Node {
	if !f.byRows() {
		return low
	}
	var each []*Node
	batch, seq := x.Shape().Dim(0), x.Shape().Dim(1)
	for _, a := range f.adapters {
		if a.rows == nil {
			each = append(each, Ones(x.Graph(), shapes.Make(dtypes.Float32, batch, a.R)))
			continue
		}
		each = append(each, SliceAxis(a.rows, 0, AxisRange(0, batch)))
	}
	n := low.Shape().Dim(1)
	factors := ConvertDType(InsertAxes(padColumns(Concatenate(each, -1), n), 1), low.DType())
	return Reshape(Mul(Reshape(low, batch, seq, n), factors), batch*seq, n)
}

// stack makes the working copies.
func (f *fused) stack(dtype dtypes.DType) {
	for i, a := range f.adapters {
		b := kernels.Factor{X: a.b, Scale: a.Scaling, At: f.at[i]}
		if a.scale != nil {
			b.X, b.Scale = a.scaled(a.b), 1
		}
		f.as, f.bs = append(f.as, kernels.Factor{X: a.a, Scale: 1}), append(f.bs, b)
	}
	f.wide = kernels.Stacked(f.as)
	f.a, f.b = ConvertDType(f.wide, dtype), ConvertDType(kernels.BlockDiagonal(f.bs, f.out), dtype)
}

// beside is [W | B | 0], below is [W ; A ; 0].
func (f *fused) beside(dtype dtypes.DType) *Node {
	if f.group.packed != nil {
		return kernels.DequantizeColumns(f.group.packed.data, dtype, f.bs, f.pad, f.codes()...)
	}
	if f.n == 0 {
		return f.dense(dtype, nil, 1)
	}
	return f.dense(dtype, padColumns(f.b, f.pad), 1)
}

func (f *fused) below(dtype dtypes.DType) *Node {
	if f.group.packed != nil {
		return kernels.DequantizeRows(f.group.packed.data, dtype, f.as, f.pad, f.codes()...)
	}
	if f.n == 0 {
		return f.dense(dtype, nil, 0)
	}
	return f.dense(dtype, pad(f.a, 0, f.pad), 0)
}

func (f *fused) dense(dtype dtypes.DType, tail *Node, axis int) *Node {
	w := ConvertDType(f.nodes[f.group.weight], dtype)
	if tail == nil {
		return w
	}
	return Concatenate([]*Node{w, tail}, axis)
}

// finish adds the bias to y [B·S, out], unless that is done later, and gives it the shape of x [B, S, ...].
func (f *fused) finish(y, x *Node) *Node {
	if f.group.bias >= 0 && !f.dora {
		y = addBias(y, f.nodes[f.group.bias])
	}
	d := x.Shape().Dimensions
	return Reshape(y, d[0], d[1], f.out)
}

// fusedNormLinears is the group of linears of RMSNorm(x): [B, S, out].
func (l *Layer) fusedNormLinears(x, gain *Node, f *fused) *Node {
	if l.few(x) {
		return l.fewNormLinears(x, gain, f)
	}
	rows, factor := flat(x), ConvertDType(gain, dtypes.Float32)
	if l.shape.UnitOffset {
		factor = OnePlus(factor)
	}
	var xa *Node
	if f.n > 0 {
		scaled := Mul(f.wide, ExpandLeftToRank(factor, 2))
		xa = f.chosen(f.drop.low(rows, ConvertDType(scaled, x.DType())), x)
	}
	var y, w, rstd, low *Node
	if f.float8 {
		y, rstd, low = l.normProduct8(x, gain, xa, f)
	} else {
		var h *Node
		h, rstd, low = kernels.RMSNorm(rows, gain, xa, f.pad, l.shape.NormEps, l.shape.UnitOffset)
		w = f.beside(x.DType())
		y = f.finish(Dense(h, w), x)
	}
	rstd = l.tape.constant(KeepSmall, rstd)
	if f.n > 0 {
		f.low = l.tape.constant(KeepSmall, low)
	}
	l.groups[y] = f
	l.tape.record([]*Node{y}, func(d []*Node) {
		g := l.factorGradients(f, d[0], rstd)
		if g.P != nil {
			f.addA(l.tape, Mul(f.drop.gradient(g.Scaled, rows, f.in), ExpandLeftToRank(factor, 2)))
		}
		dh := f.through(g.Dy, g.P)
		var past *Node
		if arrived := l.tape.take(x); arrived != nil {
			past = l.atLeast(arrived)
		}
		dx := kernels.ScaledRMSNormBackward(rows, rstd, gain, dh, past, room, l.shape.UnitOffset)
		l.tape.add(x, l.head(dx, x, true))
	})
	if f.dora {
		return l.scaleColumns(f, y, w, nil)
	}
	return y
}

// fusedNorm is RMSNorm of x [B, S, features] with a gain that is not trained.
func (l *Layer) fusedNorm(x, gain *Node) *Node {
	rows := flat(x)
	h, rstd, _ := kernels.RMSNorm(rows, gain, nil, 0, l.shape.NormEps, l.shape.UnitOffset)
	rstd = l.tape.constant(KeepSmall, rstd)
	y := Reshape(h, x.Shape().Dimensions...)
	l.tape.record([]*Node{y}, func(d []*Node) {
		dx := kernels.RMSNormBackward(rows, rstd, gain, flat(d[0]), nil, room, l.shape.UnitOffset)
		l.tape.add(x, l.head(dx, x, true))
	})
	return y
}

// fusedLinears is the group of linears of x [B, S, in], added to residual [B, S, out] unless that is nil.
func (l *Layer) fusedLinears(x, residual *Node, f *fused) *Node {
	if l.few(x) {
		return l.fewLinears(x, residual, f)
	}
	var later *Node
	if f.dora {
		residual, later = nil, residual
	}
	y, rows, w := l.product(x, residual, f)
	y = f.finish(y, x)
	l.groups[y] = f
	l.tape.record([]*Node{y}, func(d []*Node) {
		g := l.factorGradients(f, d[0], nil)
		if residual != nil {
			l.tape.add(residual, d[0])
		}
		gated := f.n > 0 && l.gated[x] == f.n
		added := g.P
		if gated && f.drop != nil {
			added = nil // here; the activation's backward does it
		}
		product := f.through(g.Dy, added)
		dx := Reshape(product.Product(), x.Shape().Dimensions...)
		l.raw[dx] = product
		switch {
		case gated:
			l.late[dx] = late{g.P, func(dA *Node) { f.addA(l.tape, f.drop.times(dA)) }, f.drop.behind(f.wide, x.DType())}
		case g.P != nil:
			f.addA(l.tape, f.drop.gradient(g.P, rows, f.in))
		}
		l.tape.add(x, dx)
	})
	if f.dora {
		return l.scaleColumns(f, y, w, later)
	}
	return y
}

// product is x·Wᵀ + low·Bᵀ of x [B, S, in], plus residual unless that is nil: [B·S, out]. It sets low; rows are what it is made of, w is
// the weight, alone or beside B, nil in float8.
func (l *Layer) product(x, residual *Node, f *fused) (y, rows, w *Node) {
	rows, roomy := flat(x), false
	if b, ok := l.buffers[x]; ok && b.clean && b.data.Shape().Dim(1) == f.in+f.pad {
		rows, roomy = b.data, true
	}
	onto := func(y *Node) *Node {
		if residual != nil {
			y = Add(y, flat(residual))
		}
		return y
	}
	one := f.n > 0 && f.n <= kernels.MaxLowRank && f.drop == nil && !f.byRows() // small enough for a kernel that takes it along
	switch {
	case f.float8:
		if f.n > 0 {
			f.low = l.tape.constant(KeepSmall, f.chosen(f.thin(rows), x))
		}
		return onto(f.product8(l.atLeast(x), f.low).Product()), rows, nil
	case f.n == 0:
		w = f.weight(x.DType())
		return onto(Dense(rows, w)), rows, w
	case roomy && one && l.lows[x] != nil:
		rows, f.low = l.lows[x](f.a)
		f.low, w = l.tape.constant(KeepSmall, f.low), f.beside(x.DType())
		return onto(Dense(rows, w)), rows, w
	case roomy:
		f.low, w = l.tape.constant(KeepSmall, f.chosen(f.thin(rows), x)), f.beside(x.DType())
		return onto(Dense(put(rows, f.low, f.in), w)), rows, w
	case one && rows.Shape().Dim(0) >= kernels.MinLowRows: // a copy with room is faster than one more pass over y
		both, low := kernels.Low(rows, f.a, f.pad)
		f.low, w = l.tape.constant(KeepSmall, low), f.beside(x.DType())
		return onto(Dense(both, w)), rows, w
	}
	f.low, w = l.tape.constant(KeepSmall, f.chosen(f.thin(rows), x)), f.weight(x.DType())
	return Add(Dense(rows, w), onto(Dense(f.low, f.b))), rows, w // in this order the large product accumulates onto the rest
}

// weight is W alone.
func (f *fused) weight(dtype dtypes.DType) *Node {
	if f.group.packed != nil {
		return kernels.DequantizeColumns(f.group.packed.data, dtype, nil, 0, f.codes()...)
	}
	return f.dense(dtype, nil, 1)
}

// factorGradients adds dB of the group for d [B, S, out], the gradient of its product, and returns [dy | p | 0] and p, with its rows
// times rstd too unless that is nil; only dy for a group without adapters. Where p does not ride along, zeros or nothing are in its place.
func (l *Layer) factorGradients(f *fused, d, rstd *Node) (g kernels.FactorGradients) {
	if f.n == 0 {
		g.Dy = flat(d)
		return g
	}
	dy, rides := l.arrived(f, d), f.drop == nil && !f.float8
	if e, ok := l.early[d]; ok {
		g = kernels.SumsOfFactors(dy, e.p, e.dB, f.bs, f.out, rstd, rides)
	} else {
		g = kernels.GradientsOfFactors(dy, f.low, f.bs, f.out, rstd, rides)
	}
	for i, a := range f.adapters {
		dB := g.DB[i]
		if a.scale != nil {
			dB = a.scaled(dB)
		}
		l.tape.add(a.b, dB)
	}
	l.buffers[d] = buffer{data: g.Dy} // whoever still needs d reads it there, so that p was written in place
	return g
}

// addA adds the gradient of all As, [n, in or more].
func (f *fused) addA(t *Tape, dA *Node) {
	row := 0
	for _, a := range f.adapters {
		t.add(a.a, Slice(dA, AxisRange(row, row+a.R), AxisRange(0, f.in)))
		row += a.R
	}
}
