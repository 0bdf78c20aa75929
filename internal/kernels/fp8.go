package kernels

import (
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/matmul"
	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/quant"
)

// Products in float8 E4M3 (arXiv:2209.05433; torch.float8_e4m3fn): both operands are rounded to nearest even, to three bits
// behind the leading one, and products added up in float32, or as the tensor cores of compute capability 9.0 do in their fast
// mode. An activation has a scale for each row, by the largest number in it; a weight has one. Scales are powers of two, so
// that dividing by them and multiplying by them is exact.

// Float8Max is the largest number of float8 E4M3.
const Float8Max = 448

// Float8Weight is a weight W [out, in] of [Float8Product]: a matrix of floats, or arrays of quant.Packed.Inputs.
type Float8Weight struct {
	Dense      *Node
	Layout     quant.Layout // of Packed
	Packed     []*Node
	Transposed bool // x·W in place of x·Wᵀ
}

// dims are the weight's rows and columns.
func (w Float8Weight) dims(op string) (out, in int) {
	if w.Dense != nil {
		return checkMatrix(op, "the weight", w.Dense)
	}
	if len(w.Layout.Shape) != 2 {
		panic(fmt.Errorf("kernels: %s: the weight has shape %v, want a matrix", op, w.Layout.Shape))
	}
	return w.Layout.Shape[0], w.Layout.Shape[1]
}

// Float8Product is x·Wᵀ + low·tailᵀ, or, transposed, x·W + low·tailᵀ, of x rounded by rows and W as a whole to float8. The rows [T, out]
// (or [T, in]) are of x's dtype, and their factors the products of the scales of x's rows and of W. x is [T, in], or [T, out], or
// has more columns, of which the first count. low [T, n] and tail [out, n] (or [in, n]) are of x's dtype; nil is none.
//
// The kernels take bfloat16, packed weights as [DequantizeColumns] does, but with an out of multiples of 32, and other weights of multiples
// of 16 either way; without kernels the same numbers are computed in x's dtype. Beside packed weights low and tail ride along in float8,
// each as the sum of two numbers; what that loses is less than bfloat16 does, of the largest numbers in low's row and in tail.
func Float8Product(x *Node, w Float8Weight, low, tail *Node) Rows {
	const op = "Float8Product"
	rows, columns := checkMatrix(op, "x", x)
	out, in := w.dims(op)
	k, n := in, out
	if w.Transposed {
		k, n = out, in
	}
	if columns < k {
		panic(fmt.Errorf("kernels: %s: x has %d columns, want at least %d", op, columns, k))
	}
	if low != nil {
		_, rank := checkMatrix(op, "low", low)
		check(op, "low", low, x.DType(), rows, rank)
		check(op, "tail", tail, x.DType(), n, rank)
	}
	unit := w.unit()
	f := float8Call{rows: float8RowsLaunch(x.DType(), rows, columns, k).use(x.Graph()), m: rows, n: n, k: k}
	if w.Dense == nil {
		f.weight = float8WeightLaunch(w.Layout, w.Transposed)
	}
	if f.rows == nil || f.weight == nil && (w.Dense == nil || n%16 != 0) {
		return float8Twin(x, w, unit, low, tail)
	}
	if f.weight != nil && low != nil {
		f.ride(low.Shape().Dimensions[1])
		return f.call(x, w, unit, low, tail)
	}
	product := f.call(x, w, unit, nil, nil)
	product.X = addLow(product.X, product.Scale, low, tail)
	return product
}

// tailUnit is the scale of tail, a power of two, and factor what the tail's and the weight's make for low: low·factor stands beside x.
// The tail's largest number is 448/tailRoom, so that low is not the smaller of the two while adapters are small.
func tailUnit(tail, unit *Node) (own, factor *Node) {
	const tailRoom = 32
	own = MulScalar(powerFor(wide(ReduceAllMax(Abs(tail)))), tailRoom)
	return own, Div(own, unit)
}

// Float8 reports why a backend cannot compute products in float8 by kernels where it should: a GPU before compute capability
// 8.9 (Ada, Hopper), or one that was not opened through the seam. It compiles and runs one.
func Float8(b compute.Backend) error {
	named, ok := b.(interface{ PluginName() string })
	if !ok || !strings.Contains(named.PluginName(), "cuda") {
		return nil // the twin computes the same numbers
	}
	if !Available(b) {
		return errors.New("the backend was not opened through the seam")
	}
	x := make([][]float32, 16)
	for i := range x {
		x[i] = make([]float32, 64)
		for j := range x[i] {
			x[i][j] = float32(i + 1)
		}
	}
	out, err := CallOnce(b, func(x *Node) *Node {
		x = ConvertDType(x, dtypes.BFloat16)
		return Float8Product(x, Float8Weight{Dense: x}, nil, nil).wide()
	}, x)
	if err != nil {
		return err
	}
	y, ok := out.Value().([][]float32)
	if !ok || len(y) != 16 || y[1][2] != 2*3*64 {
		return fmt.Errorf("a product came out as %v", y)
	}
	return nil
}

// unit is the weight's scale, a power of two, a float32 scalar. Of double-quantized scales it is taken from their bounds, not
// decoded.
func (w Float8Weight) unit() *Node {
	var most *Node
	switch {
	case w.Dense != nil:
		most = wide(ReduceAllMax(Abs(w.Dense)))
	case w.Layout.NestedBlocksize == 0:
		most = ReduceAllMax(Abs(w.Packed[1])) // the largest number of a code is 1
	default: // as is the largest one of the scales' codes
		most = ReduceAllMax(Add(Abs(w.Packed[2]), Abs(w.Packed[3])))
	}
	return powerFor(most)
}

// powerFor is the smallest power of two by which numbers up to most can be divided to be at most Float8Max; the same bits as
// scaleBits in fp8.cuh.
func powerFor(most *Node) *Node {
	const up, exponent, down = 0x1fffff, 0x7f800000, 8 << 23
	b := Bitcast(MaxScalar(most, 0x1p-100), dtypes.Uint32)
	b = BitwiseAnd(AddScalar(b, up), Scalar(b.Graph(), dtypes.Uint32, exponent))
	return Bitcast(SubScalar(b, down), dtypes.Float32)
}

// RoundFloat8 rounds numbers to those of float8 E4M3, to nearest even; beyond Float8Max they are that. The dtype stays: float32
// and bfloat16 hold them.
func RoundFloat8(x *Node) *Node {
	w := wide(x)
	most := MinScalar(Abs(w), Float8Max)
	power := Bitcast(BitwiseAnd(Bitcast(most, dtypes.Uint32), Scalar(x.Graph(), dtypes.Uint32, 0x7f800000)), dtypes.Float32)
	step := MulScalar(MaxScalar(power, 0x1p-6), 0.125) // between neighbours
	return ConvertDType(Mul(Sign(w), Mul(Round(Div(most, step)), step)), x.DType())
}

// float8Twin computes in x's dtype.
func float8Twin(x *Node, w Float8Weight, unit, low, tail *Node) Rows {
	weight := w.Dense
	if weight == nil {
		weight = w.Layout.DequantizeNode(dtypes.Float32, w.Packed...)
	}
	weight = ConvertDType(RoundFloat8(Div(wide(weight), unit)), x.DType())
	contract := 1
	if w.Transposed {
		contract = 0
	}
	var beside *Node
	if low != nil && w.Dense == nil {
		_, factor := tailUnit(tail, unit)
		beside = Mul(wide(low), factor)
	}
	rows, s := float8Rows(columns(x, 0, weight.Shape().Dimensions[contract]), beside)
	s = Mul(s, unit)
	return Rows{addLow(matmul.Contract(rows, 1, weight, contract), s, low, tail), s}
}

// addLow is y + (low/s)·tailᵀ.
func addLow(y, s, low, tail *Node) *Node {
	if low == nil {
		return y
	}
	return Add(y, matmul.Contract(ConvertDType(Div(wide(low), InsertAxes(s, 1)), low.DType()), 1, tail, 1))
}

// float8Rows are the rows of x [T, n], divided by a scale and rounded, and the scales [T] float32, which are for what stands beside x,
// too, unless that is nil.
func float8Rows(x, beside *Node) (rows, scale *Node) {
	most := ReduceMax(Abs(wide(x)), 1)
	if beside != nil {
		most = Max(most, ReduceMax(Abs(beside), 1))
	}
	s := powerFor(most)
	return ConvertDType(RoundFloat8(Div(wide(x), InsertAxes(s, 1))), x.DType()), s
}

// float8RowsLaunch rounds the first k columns of rows.
func float8RowsLaunch(dtype dtypes.DType, rows, columns, k int) *launch {
	if dtype != dtypes.BFloat16 || columns%chunk != 0 || k%16 != 0 || k == 0 || rows == 0 || rows > maxRows {
		return nil
	}
	threads := rowThreads(k)
	if threads == 0 {
		threads = 512
	}
	return &launch{
		kernel: "fp8_rows", grid: [3]int{rows}, threads: threads, sizes: []int32{int32(k / chunk), int32(columns / chunk), 0, 0},
		out: []shapes.Shape{shapes.Make(dtypes.F8E4M3FN, rows, k), shapes.Make(dtypes.Float32, rows)},
	}
}

// float8WeightLaunch decodes a packed weight [out, in] to float8, or, transposed, to [in, out]; nil if the kernel does not take
// it.
func float8WeightLaunch(l quant.Layout, transposed bool) *launch {
	const tileRows, group = 128, 64
	d := dequantizeLaunch(l, dtypes.BFloat16, 1, 0)
	out, in := l.Shape[0], l.Shape[1]
	if d == nil || out%32 != 0 || out*in >= 1<<36 {
		return nil
	}
	k := &launch{kernel: strings.Replace(d.kernel, "nf4", "fp8_weight", 1), threads: 256}
	k.grid, k.out = [3]int{ceilDiv(out/2*in/group, 128)}, []shapes.Shape{shapes.Make(dtypes.F8E4M3FN, out, in)}
	if transposed {
		k.grid, k.out[0] = [3]int{ceilDiv(out/2, tileRows), in / group}, shapes.Make(dtypes.F8E4M3FN, in, out)
	}
	kind, nested := d.sizes[5], d.sizes[6]
	k.sizes = []int32{int32(out / 2), int32(in), int32(bits.TrailingZeros(uint(l.Blocksize / group))), kind, nested, flag(transposed), 0, 0}
	return k
}

// float8Call is a product [m, k] by [k, n] in float8.
type float8Call struct {
	rows, weight *launch // weight nil: of a dense one
	m, n, k      int
}

// ride makes room behind both operands for factors of n columns.
func (f *float8Call) ride(n int) {
	const tile = 128
	pad := ceilDiv(3*n, tile) * tile // three products, see fp8.cuh
	f.k += pad
	f.rows.sizes[2], f.rows.sizes[3] = int32(n), int32(pad/chunk)
	f.weight.sizes[6], f.weight.sizes[7] = int32(n), int32(pad/16)
	for _, l := range []*launch{f.rows, f.weight} {
		d := l.out[0].Dimensions
		l.out[0] = shapes.Make(dtypes.F8E4M3FN, d[0], d[1]+pad)
	}
}

// call is one operation: its float8 values never leave it, because go-xla has no such dtype. XLA makes a product of cuBLASLt
// (__cublas$lt$matmul$f8) out of its dot.
func (f float8Call) call(x *Node, w Float8Weight, unit, low, tail *Node) Rows {
	sizes := func(l *launch) *Node { return Const(x.Graph(), l.sizes) }
	own, factor := unit, unit // never read without low
	if low == nil {
		low, tail = x, x // neither
	} else {
		own, factor = tailUnit(tail, unit)
	}
	operands := []*Node{x, low, factor, unit, sizes(f.rows)}
	var b strings.Builder
	names := func(from, to int) (all []string) {
		for i := from; i < to; i++ {
			all = append(all, "%a"+strconv.Itoa(i))
		}
		return all
	}
	b.WriteString(f.rows.customCall().Statement("%rows", names(0, 5), shapesOf(operands), f.rows.out))
	weight := "%w#0"
	if w.Dense == nil {
		decode := append(packedOperands("Float8Product", w.Layout, w.Packed), unit, tail, own, sizes(f.weight))
		operands = append(operands, decode...)
		b.WriteString(f.weight.customCall().Statement("%w", names(5, len(operands)), shapesOf(decode), f.weight.out))
	} else {
		dense := w.Dense
		if w.Transposed {
			dense = Transpose(dense, 0, 1)
		}
		dense = Mul(wide(dense), Reciprocal(unit))
		operands = append(operands, dense)
		weight = "%w"
		fmt.Fprintf(&b, "    %%w = \"stablehlo.convert\"(%%a5) : (%s) -> %s\n", seam.TensorType(dense.Shape()), seam.TensorType(shapes.Make(dtypes.F8E4M3FN, f.n, f.k)))
	}
	out := []shapes.Shape{shapes.Make(x.DType(), f.m, f.n), f.rows.out[1]}
	fmt.Fprintf(&b, "    %%y = \"stablehlo.dot_general\"(%%rows#0, %s) {dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [1]>} : (%s, %s) -> %s\n",
		weight, seam.TensorType(f.rows.out[0]), seam.TensorType(shapes.Make(dtypes.F8E4M3FN, f.n, f.k)), seam.TensorType(out[0]))
	b.WriteString(seam.Return([]string{"%y", "%rows#1"}, out))
	results := seam.Call(seam.Body(b.String()), out, operands...)
	return Rows{results[0], results[1]}
}
