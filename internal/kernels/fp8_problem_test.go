package kernels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/quant"
)

// float8Of rounds to float8 E4M3 in float64.
func float8Of(x float64) float64 {
	a := min(math.Abs(x), Float8Max)
	step := math.Ldexp(1, max(-6, math.Ilogb(a))-3)
	if a == 0 {
		return 0
	}
	return math.Copysign(math.RoundToEven(a/step)*step, x) + 0
}

// powerOf is the power of two by which numbers up to most are divided.
func powerOf(most float64) float64 {
	return math.Exp2(math.Ceil(math.Log2(max(most, 0x1p-100) / Float8Max)))
}

// float8FromBits is the number that a byte stands for.
func float8FromBits(b byte) float32 {
	exponent, n := int(b>>3&15), float64(b&7)
	if exponent > 0 {
		n += 8
	} else {
		exponent = 1
	}
	if b&0x7f == 0x7f {
		return float32(math.NaN())
	}
	v := math.Ldexp(n, exponent-10)
	if b > 127 {
		v = -v
	}
	return float32(v + 0)
}

// noNegativeZero is x with its zeros positive.
func noNegativeZero(x *Node) *Node { return Where(Equal(x, ZerosLike(x)), ZerosLike(x), x) }

// split is v [rows, n] as the kernels write it into 128 columns or more, in float8.
func split(v *Node, tail bool) *Node {
	larger := RoundFloat8(v)
	smaller, rest := RoundFloat8(MulScalar(larger, 0.0625)), RoundFloat8(MulScalar(Sub(v, larger), 16))
	if tail {
		smaller, rest = rest, smaller
	}
	n := v.Shape().Dimensions[1]
	return padTo(Concatenate([]*Node{larger, smaller, rest}, 1), ceilDiv(3*n, 128)*128)
}

// splitOf is the same in float64.
func splitOf(v []float64, tail bool) []float64 {
	out := make([]float64, ceilDiv(3*len(v), 128)*128)
	for i, x := range v {
		a := float8Of(x)
		smaller, rest := float8Of(a/16), float8Of((x-a)*16)
		if tail {
			smaller, rest = rest, smaller
		}
		out[i], out[len(v)+i], out[2*len(v)+i] = a, smaller, rest
	}
	return out
}

// callWide launches a kernel whose first result is in float8, and returns it in float32.
func (l *launch) callWide(operands ...*Node) []*Node {
	operands = append(append([]*Node{}, operands...), Const(operands[0].Graph(), l.sizes))
	var names []string
	for i := range operands {
		names = append(names, "%a"+strconv.Itoa(i))
	}
	out := append([]shapes.Shape{}, l.out...)
	out[0] = shapes.Make(dtypes.Float32, out[0].Dimensions...)
	body := l.customCall().Statement("%c", names, shapesOf(operands), l.out)
	body += fmt.Sprintf("    %%wide = \"stablehlo.convert\"(%%c#0) : (%s) -> %s\n", seam.TensorType(l.out[0]), seam.TensorType(out[0]))
	results := []string{"%wide"}
	for i := range out[1:] {
		results = append(results, "%c#"+strconv.Itoa(i+1))
	}
	all := seam.Call(seam.Body(body+seam.Return(results, out)), out, operands...)
	all[0] = noNegativeZero(all[0])
	return all
}

// float8RowsProblem rounds the first k of columns, and n of an adapter.
func float8RowsProblem(dtype dtypes.DType, rows, columns_, k, n int) problem {
	r := rand.New(rand.NewPCG(uint64(rows), uint64(k)))
	x := normal(r, dtype, 1, rows, columns_)
	for t := range rows { // rows of any size, and some numbers far smaller than the largest one
		for i := range columns_ {
			x.floats[t*columns_+i] *= float32(math.Ldexp(1, 7*(t%20)-20-3*(i%5)))
		}
	}
	if rows > 2 {
		clear(x.floats[columns_ : 2*columns_])
	}
	unit, factor := floatArray(dtypes.Float32, []float32{0.25}), floatArray(dtypes.Float32, []float32{8})
	low := x // never read
	if n > 0 {
		low = normal(r, dtype, 4, rows, n)
	}
	twin := func(in []*Node) []*Node {
		if n == 0 {
			rounded, s := float8Rows(columns(in[0], 0, k), nil)
			return []*Node{noNegativeZero(wide(rounded)), Mul(s, in[3])}
		}
		beside := Mul(wide(in[1]), in[2])
		rounded, s := float8Rows(columns(in[0], 0, k), beside)
		all := Concatenate([]*Node{wide(rounded), split(Div(beside, InsertAxes(s, 1)), false)}, 1)
		return []*Node{noNegativeZero(all), Mul(s, in[3])}
	}
	p := problem{inputs: []array{x, low, factor, unit}, exact: true, op: twin, twin: twin, launch: float8RowsLaunch(dtype, rows, columns_, k, n)}
	if p.launch != nil {
		p.call = p.launch.callWide
		p.op = onKernels(p.call, twin)
	}
	out, scales := make([]float64, 0, rows*k), make([]float64, 0, rows)
	for t := range rows {
		most := 0.0
		for i := range k {
			most = max(most, math.Abs(x.at(t, i)))
		}
		beside := make([]float64, n)
		for i := range n {
			beside[i] = low.at(t, i) * 8
			most = max(most, math.Abs(beside[i]))
		}
		s := powerOf(most)
		scales = append(scales, s/4)
		for i := range k {
			out = append(out, float8Of(x.at(t, i)/s))
		}
		for i := range beside {
			beside[i] /= s
		}
		out = append(out, splitOf(beside, false)...)
	}
	p.want = [][]float64{out, scales}
	return p.named("float8 rows %s %dx%d of %d, %d beside", dtype, rows, k, columns_, n)
}

// onKernels is call where kernels run, else twin.
func onKernels(call func(in ...*Node) []*Node, twin func(in []*Node) []*Node) func(in []*Node) []*Node {
	return func(in []*Node) []*Node {
		if Available(in[0].Graph().Backend()) {
			return call(in...)
		}
		return twin(in)
	}
}

// float8WeightProblem decodes a packed weight, with n columns of an adapter beside it.
func float8WeightProblem(t testing.TB, w weight, transposed bool, n int) problem {
	packed := w.pack(t)
	var inputs []array
	for _, x := range packed.Inputs() {
		inputs = append(inputs, array{shape: x.Shape, bytes: x.Raw})
	}
	l := packed.Layout
	arrays := len(inputs)
	tail := floatArray(dtypes.BFloat16, []float32{0}, 1) // never read
	rows := l.Shape[0]
	if transposed {
		rows = l.Shape[1]
	}
	if n > 0 {
		tail = normal(rand.New(rand.NewPCG(4, uint64(n))), dtypes.BFloat16, 0.5, rows, n)
	}
	inputs = append(inputs, tail, floatArray(dtypes.Float32, []float32{0.125}, 1))
	p := problem{inputs: inputs, exact: true, launch: float8WeightLaunch(l, transposed, n)}
	p.twin = func(in []*Node) []*Node {
		v := RoundFloat8(Div(l.DequantizeNode(dtypes.Float32, in[:arrays]...), Float8Weight{Layout: l, Packed: in[:arrays]}.unit()))
		if transposed {
			v = Transpose(v, 0, 1)
		}
		if n > 0 {
			v = Concatenate([]*Node{v, split(MulScalar(wide(in[arrays]), 8), true)}, 1)
		}
		return []*Node{noNegativeZero(v)}
	}
	p.op = p.twin
	values, err := packed.Dequantize(dtypes.Float32)
	if err != nil {
		t.Fatal(err)
	}
	most := 0.0
	if l.NestedBlocksize == 0 {
		for _, v := range fromRaw(inputs[1].shape, inputs[1].bytes).floats {
			most = max(most, math.Abs(float64(v)))
		}
	} else {
		offset := fromRaw(inputs[3].shape, inputs[3].bytes).floats
		for i, v := range fromRaw(inputs[2].shape, inputs[2].bytes).floats {
			most = max(most, float64(float32(math.Abs(float64(v)))+float32(math.Abs(float64(offset[i%len(offset)])))))
		}
	}
	unit := powerOf(most)
	if p.launch != nil {
		operands := func(in []*Node) []*Node {
			return append(packedOperands("test", l, in[:arrays]), Float8Weight{Layout: l, Packed: in[:arrays]}.unit(), in[arrays], in[arrays+1])
		}
		p.call = func(in ...*Node) []*Node { return p.launch.callWide(in...) }
		p.op = onKernels(func(in ...*Node) []*Node { return p.call(operands(in)...) }, p.twin)
		p.operands = append(p.operands, inputs[:arrays]...)
		if l.NestedBlocksize > 0 {
			numbers := quant.DynamicMap(true)
			p.operands = append(p.operands, floatArray(dtypes.Float32, numbers[:], 256))
		}
		p.operands = append(p.operands, floatArray(dtypes.Float32, []float32{float32(unit)}), tail, inputs[arrays+1])
	}
	out, in := l.Shape[0], l.Shape[1]
	var want []float64
	for row := range rows {
		for i := range out * in / rows {
			at := row*in + i
			if transposed {
				at = i*in + row
			}
			want = append(want, float8Of(float64(values[at])/unit))
		}
		beside := make([]float64, n)
		for i := range beside {
			beside[i] = tail.at(row, i) * 8
		}
		want = append(want, splitOf(beside, true)...)
	}
	p.want = [][]float64{want}
	return p.named("float8 weight %v, transposed %v, %d beside", w, transposed, n)
}

// float8ProductProblem is a product with a packed weight, or with what that stands for.
func float8ProductProblem(t testing.TB, w weight, dtype dtypes.DType, rows, extra, rank int, dense, transposed bool) problem {
	packed := w.pack(t)
	l := packed.Layout
	out, in := l.Shape[0], l.Shape[1]
	k, n := in, out
	if transposed {
		k, n = out, in
	}
	values, err := packed.Dequantize(dtypes.Float32)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(uint64(rows), uint64(out+in)))
	x := normal(r, dtype, 1, rows, k+extra)
	p := problem{inputs: []array{x}, rounding: 4e-3}
	if dense {
		p.inputs = append(p.inputs, floatArray(dtype, values, out, in))
		values = p.inputs[1].floats
	} else {
		for _, a := range packed.Inputs() {
			p.inputs = append(p.inputs, array{shape: a.Shape, bytes: a.Raw})
		}
	}
	arrays := len(p.inputs)
	if rank > 0 {
		p.inputs = append(p.inputs, normal(r, dtype, 3, rows, rank), normal(r, dtype, 0.01, n, rank))
	}
	weight := func(in []*Node) (w Float8Weight, low, tail *Node) {
		if rank > 0 {
			low, tail = in[arrays], in[arrays+1]
		}
		if dense {
			return Float8Weight{Dense: in[1], Transposed: transposed}, low, tail
		}
		return Float8Weight{Layout: l, Packed: in[1:arrays], Transposed: transposed}, low, tail
	}
	p.op = func(in []*Node) []*Node {
		w, low, tail := weight(in)
		return []*Node{Float8Product(in[0], w, low, tail).wide()}
	}
	p.twin = func(in []*Node) []*Node {
		w, low, tail := weight(in)
		return []*Node{float8Twin(in[0], w, w.unit(), low, tail).wide()}
	}
	most := 0.0
	for _, v := range values {
		most = max(most, math.Abs(float64(v)))
	}
	if !dense && l.NestedBlocksize > 0 {
		most *= 1.2 // about what the bound is; it makes no difference above float8's smallest numbers
	}
	unit := powerOf(most)
	want := make([]float64, rows*n)
	for t := range rows {
		for j := range n {
			for i := range rank {
				want[t*n+j] += p.inputs[arrays].at(t, i) * p.inputs[arrays+1].at(j, i)
			}
		}
		largest := 0.0
		for i := range k {
			largest = max(largest, math.Abs(x.at(t, i)))
		}
		s := powerOf(largest)
		for i := range k {
			a := float8Of(x.at(t, i)/s) * s
			for j := range n {
				at := j*in + i
				if transposed {
					at = i*in + j
				}
				want[t*n+j] += a * float8Of(float64(values[at])/unit) * unit
			}
		}
	}
	p.want = [][]float64{want}
	p.composite = true
	beside := rank
	if dense {
		beside = 0
	}
	f := float8Call{rows: float8RowsLaunch(dtype, rows, k+extra, k, beside)}
	if !dense {
		f.weight = float8WeightLaunch(l, transposed, rank)
	}
	if f.rows != nil && (dense || f.weight != nil) {
		p.call = func(in ...*Node) []*Node {
			w, low, tail := weight(in)
			unit := w.unit()
			own, factor := unit, unit
			if beside > 0 {
				own, factor = tailUnit(tail, unit)
			} else {
				low, tail = in[0], in[0]
			}
			return f.call([]*Node{in[0], low, factor, unit}, w, unit, tail, own)
		}
	}
	return p.named("float8 product %s %v, %d rows, %d more columns, rank %d, dense %v, transposed %v", dtype, w, rows, extra, rank, dense, transposed)
}

// standsFor is what rows in float8 with n columns of an adapter beside them, and their scales, stand for: h, low, and low again by
// the columns that have its larger part in small, with the zeros at the end. Where kernel and twin round a number in bfloat16 to different
// neighbours, the scale may be another, and so may be the parts of low.
func standsFor(all, scale *Node, hidden, n int) (h, low, again *Node) {
	s := InsertAxes(scale, 1)
	rest := MulScalar(columns(all, hidden+2*n, hidden+3*n), 1./16)
	small := MulScalar(columns(all, hidden+n, hidden+2*n), 16)
	again = Concatenate([]*Node{small, columns(all, hidden+3*n, all.Shape().Dim(1))}, 1)
	return Mul(columns(all, 0, hidden), s), Mul(Add(columns(all, hidden, hidden+n), rest), s), Mul(again, s)
}

// standsForOnHost is the same of what a kernel wrote.
func standsForOnHost(all, scale array, hidden, n int) (h, low, again array) {
	width := all.shape.Dim(1)
	for t, s := range scale.floats {
		row := all.floats[t*width : (t+1)*width]
		for i := range hidden {
			h.floats = append(h.floats, row[i]*s)
		}
		for i := range n {
			low.floats = append(low.floats, (row[hidden+i]+row[hidden+2*n+i]/16)*s)
			again.floats = append(again.floats, row[hidden+n+i]*16*s)
		}
		for _, v := range row[hidden+3*n:] {
			again.floats = append(again.floats, v*s)
		}
	}
	for _, a := range []*array{&h, &low, &again} {
		a.shape = shapes.Make(dtypes.Float32, len(scale.floats), len(a.floats)/len(scale.floats))
	}
	return h, low, again
}

// float8NormProblem is the norm that rounds, and what its rows stand for.
func float8NormProblem(rows, hidden, n int, offset bool) problem {
	r := rand.New(rand.NewPCG(uint64(rows), uint64(hidden)))
	x, gain, xa := normal(r, dtypes.BFloat16, 1.7, rows, hidden), normal(r, dtypes.BFloat16, 1, hidden), normal(r, dtypes.Float32, 3, rows, n)
	factor, unit := floatArray(dtypes.Float32, []float32{2}), floatArray(dtypes.Float32, []float32{0.25})
	twin := func(in []*Node) []*Node {
		h, rstd, _ := rmsNormTwin(in[0], in[1], nil, 0, testEps, offset)
		low := ConvertDType(Mul(in[2], InsertAxes(rstd, 1)), dtypes.BFloat16)
		beside := Mul(wide(low), in[3])
		rounded, s := float8Rows(h, beside)
		all := Concatenate([]*Node{wide(rounded), split(Div(beside, InsertAxes(s, 1)), false)}, 1)
		h, beside, again := standsFor(all, Mul(s, in[4]), hidden, n)
		return []*Node{h, beside, again, rstd, low}
	}
	// A number that the two round to different neighbours in bfloat16 may be one apart in float8.
	p := problem{inputs: []array{x, gain, xa, factor, unit}, rounding: 0.03, twin: twin, launch: float8NormLaunch(dtypes.BFloat16, rows, hidden, n, testEps, offset)}
	p.call = p.launch.callWide
	p.op = onKernels(func(in ...*Node) []*Node {
		out := p.call(in...)
		h, low, again := standsFor(out[0], out[1], hidden, n)
		return []*Node{h, low, again, out[2], out[3]}
	}, twin)
	p.finish = func(out []array) []array {
		h, low, again := standsForOnHost(out[0], out[1], hidden, n)
		return []array{h, low, again, out[2], out[3]}
	}
	var out, besides, again, rstds, low []float64
	for t := range rows {
		rstd := rstdOf(x, t)
		h, beside := make([]float64, hidden), make([]float64, n)
		most := 0.0
		for i := range h {
			h[i] = float64(bf16(float32(bf16Of(x.at(t, i)*rstd) * gain.at(i))))
			if offset {
				h[i] = bf16Of(x.at(t, i) * rstd * (1 + gain.at(i)))
			}
			most = max(most, math.Abs(h[i]))
		}
		for i := range beside {
			v := bf16Of(xa.at(t, i) * rstd)
			low, beside[i] = append(low, v), 2*v
			most = max(most, math.Abs(2*v))
		}
		s := powerOf(most)
		for _, v := range h {
			out = append(out, float8Of(v/s)*s/4)
		}
		for _, v := range beside {
			larger := float8Of(v / s)
			besides = append(besides, (larger+float8Of((v/s-larger)*16)/16)*s/4)
			again = append(again, float8Of(larger/16)*16*s/4)
		}
		again = append(again, make([]float64, ceilDiv(3*n, 128)*128-3*n)...)
		rstds = append(rstds, rstd)
	}
	p.want = [][]float64{out, besides, again, rstds, low}
	return p.named("float8 RMSNorm %dx%d, %d beside, offset %v", rows, hidden, n, offset)
}

// float8NormProductProblem is the norm with the product behind it, against both without float8.
func float8NormProductProblem(t testing.TB, w weight, rows, n int) problem {
	packed := w.pack(t)
	l := packed.Layout
	out, hidden := l.Shape[0], l.Shape[1]
	values, err := packed.Dequantize(dtypes.Float32)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(uint64(rows), uint64(hidden)))
	x, gain := normal(r, dtypes.BFloat16, 1.7, rows, hidden), normal(r, dtypes.BFloat16, 1, hidden)
	xa, tail := normal(r, dtypes.Float32, 3, rows, n), normal(r, dtypes.BFloat16, 0.2, out, n)
	p := problem{inputs: []array{x, gain, xa, tail}, rounding: 0.06, composite: true}
	for _, a := range packed.Inputs() {
		p.inputs = append(p.inputs, array{shape: a.Shape, bytes: a.Raw})
	}
	p.op = func(in []*Node) []*Node {
		y, rstd, low := Float8NormProduct(in[0], in[1], in[2], testEps, false, Float8Weight{Layout: l, Packed: in[4:]}, in[3])
		return []*Node{y.wide(), rstd, low}
	}
	p.twin = func(in []*Node) []*Node {
		h, rstd, _ := rmsNormTwin(in[0], in[1], nil, 0, testEps, false)
		low := ConvertDType(Mul(in[2], InsertAxes(rstd, 1)), in[0].DType())
		w := Float8Weight{Layout: l, Packed: in[4:]}
		return []*Node{float8Twin(h, w, w.unit(), low, in[3]).wide(), rstd, low}
	}
	p.call = func(in ...*Node) []*Node {
		w := Float8Weight{Layout: l, Packed: in[4:]}
		unit := w.unit()
		own, factor := tailUnit(in[3], unit)
		f := float8Call{float8NormLaunch(dtypes.BFloat16, rows, hidden, n, testEps, false), float8WeightLaunch(l, false, n)}
		return f.call([]*Node{in[0], in[1], in[2], factor, unit}, w, unit, in[3], own)
	}
	var rstds, low []float64
	want := make([]float64, rows*out)
	for t := range rows {
		rstd := rstdOf(x, t)
		rstds = append(rstds, rstd)
		for i := range n {
			low = append(low, xa.at(t, i)*rstd)
		}
		for j := range out {
			for i := range hidden {
				want[t*out+j] += x.at(t, i) * rstd * gain.at(i) * float64(values[j*hidden+i])
			}
			for i := range n {
				want[t*out+j] += low[t*n+i] * tail.at(j, i)
			}
		}
	}
	p.want = [][]float64{want, rstds, low}
	return p.named("float8 product of RMSNorm, %v, %d rows, %d beside", w, rows, n)
}

func bf16Of(v float64) float64 { return float64(bf16(float32(v))) }

// float8Problems are small, with rows longer than a block holds, and shapes that the kernels leave to the twin.
func float8Problems(t testing.TB, dtype dtypes.DType) []problem {
	nested := weight{[]int{96, 32, 32}, 192, quant.NF4, 64, true}
	all := []problem{
		float8RowsProblem(dtype, 1, 16, 16, 0), float8RowsProblem(dtype, 5, 72, 64, 5), float8RowsProblem(dtype, 3, 600, 576, 0), float8RowsProblem(dtype, 1, 17000, 16992, 48),
		float8RowsProblem(dtype, 2, 37, 37, 0),
		float8ProductProblem(t, nested, dtype, 5, 0, 0, false, false), float8ProductProblem(t, nested, dtype, 17, 64, 48, false, true),
		float8ProductProblem(t, weight{[]int{33}, 64, quant.NF4, 64, false}, dtype, 3, 8, 4, false, false),
		float8ProductProblem(t, weight{[]int{48}, 80, quant.NF4, 64, false}, dtype, 3, 8, 7, true, false),
		float8ProductProblem(t, weight{[]int{48}, 80, quant.NF4, 64, false}, dtype, 2, 8, 0, true, true),
	}
	if dtype == dtypes.Float32 { // the rest does not depend on it
		return all
	}
	all = append(all, float8NormProblem(5, 1008, 5, false), float8NormProblem(2, 64, 48, true), float8NormProblem(1, 9008, 16, false), float8NormProductProblem(t, nested, 20, 48))
	all = append(all, float8WeightProblem(t, nested, false, 0), float8WeightProblem(t, nested, true, 0))
	for _, w := range []weight{
		nested, {[]int{64}, 64, quant.NF4, 64, false}, {[]int{320}, 320, quant.FP4, 64, true}, {[]int{128, 128}, 256, quant.NF4, 128, true},
		{[]int{32}, 1024, quant.NF4, 4096, false}, {[]int{34}, 64, quant.NF4, 64, true},
	} {
		all = append(all, float8WeightProblem(t, w, false, 5), float8WeightProblem(t, w, true, 48))
	}
	return all
}
