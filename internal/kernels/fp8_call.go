package kernels

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/quant"
)

// float8Pad is how many columns an adapter's n take in float8: three products, see fp8.cuh, in whole tiles of the product.
func float8Pad(n int) int {
	const tile = 128
	return ceilDiv(3*n, tile) * tile
}

// float8RowsLaunch rounds the first k columns of rows, with n of an adapter beside them.
func float8RowsLaunch(dtype dtypes.DType, rows, columns, k, n int) *launch {
	if dtype != dtypes.BFloat16 || columns%chunk != 0 || k%16 != 0 || k == 0 || rows == 0 || rows > maxRows {
		return nil
	}
	threads := rowThreads(k)
	if threads == 0 {
		threads = 512
	}
	pad := float8Pad(n)
	return &launch{
		kernel: "fp8_rows", grid: [3]int{rows}, threads: threads,
		sizes: []int32{int32(k / chunk), int32(columns / chunk), int32(n), int32(pad / chunk)},
		out:   []shapes.Shape{shapes.Make(dtypes.F8E4M3FN, rows, k+pad), shapes.Make(dtypes.Float32, rows)},
	}
}

// float8NormLaunch rounds what RMSNorm makes of rows, with n columns of an adapter beside it.
func float8NormLaunch(dtype dtypes.DType, rows, hidden, n int, eps float64, offset bool) *launch {
	k := rmsNormLaunch(dtype, rows, hidden, n, 0, eps, offset)
	if k == nil || hidden%16 != 0 || n == 0 {
		return nil
	}
	pad := float8Pad(n)
	k.kernel = "fp8_rmsnorm"
	k.sizes = []int32{int32(hidden / chunk), int32(n), int32(pad / chunk), int32(math.Float32bits(float32(eps))), flag(offset)}
	k.out = []shapes.Shape{
		shapes.Make(dtypes.F8E4M3FN, rows, hidden+pad), shapes.Make(dtypes.Float32, rows), shapes.Make(dtypes.Float32, rows), shapes.Make(dtype, rows, n),
	}
	return k
}

// launch decodes the weight, with n columns of an adapter beside it; nil for a dense one, beside which there are none. ok tells
// whether there are kernels for products with the weight.
func (w Float8Weight) launch(dtype dtypes.DType, n int) (l *launch, ok bool) {
	if w.Dense == nil {
		l = float8WeightLaunch(w.Layout, w.Transposed, n)
		return l, l != nil
	}
	d := w.Dense.Shape().Dimensions
	return nil, w.Dense.DType() == dtype && d[0]%16 == 0 && d[1]%16 == 0
}

// float8WeightLaunch decodes a packed weight [out, in] to float8, or, transposed, to [in, out], with n columns beside it; nil if
// the kernel does not take it.
func float8WeightLaunch(l quant.Layout, transposed bool, n int) *launch {
	const tileRows, group = 128, 64
	d := dequantizeLaunch(l, dtypes.BFloat16, 1, 0)
	out, in := l.Shape[0], l.Shape[1]
	if d == nil || out%32 != 0 {
		return nil
	}
	pad := float8Pad(n)
	k := &launch{kernel: strings.Replace(d.kernel, "nf4", "fp8_weight", 1), threads: 256}
	k.grid, k.out = [3]int{ceilDiv(out/2*in/group, 128)}, []shapes.Shape{shapes.Make(dtypes.F8E4M3FN, out, in+pad)}
	if transposed {
		k.grid, k.out[0] = [3]int{ceilDiv(out/2, tileRows), in / group}, shapes.Make(dtypes.F8E4M3FN, in, out+pad)
	}
	kind, nested := d.sizes[5], d.sizes[6]
	k.sizes = []int32{
		int32(out / 2), int32(in), int32(bits.TrailingZeros(uint(l.Blocksize / group))), kind, nested, flag(transposed), int32(n), int32(pad / 16),
	}
	return k
}

// float8Call is a product in float8: a launch whose first result is the one operand, and one that makes the other, nil for a
// dense weight.
type float8Call struct{ rows, weight *launch }

// call is one operation: its float8 values never leave it, because go-xla has no such dtype. XLA makes a product of cuBLASLt
// (__cublas$lt$matmul$f8) out of its dot. operands are those of the first launch; the weight's tail and its scale are never read
// without an adapter. The results are the product [m, n] and what else the first launch returns.
func (f float8Call) call(operands []*Node, w Float8Weight, unit, tail, tailUnit *Node) []*Node {
	sizes := func(l *launch) *Node { return Const(unit.Graph(), l.sizes) }
	var b strings.Builder
	launch := func(name string, l *launch, own []*Node) {
		names := make([]string, len(own))
		for i := range own {
			names[i] = "%a" + strconv.Itoa(len(operands)+i)
		}
		operands = append(operands, own...)
		b.WriteString(l.customCall().Statement(name, names, shapesOf(own), l.out))
	}
	first := append(operands[:len(operands):len(operands)], sizes(f.rows))
	operands = nil
	launch("%rows", f.rows, first)

	x, weight := f.rows.out[0], "%w#0"
	m, k := x.Dimensions[0], x.Dimensions[1]
	_, n := w.dims("Float8Product")
	other := shapes.Make(dtypes.F8E4M3FN, n, k)
	if f.weight != nil {
		launch("%w", f.weight, append(packedOperands("Float8Product", w.Layout, w.Packed), unit, tail, tailUnit, sizes(f.weight)))
	} else {
		dense := w.Dense
		if w.Transposed {
			dense = Transpose(dense, 0, 1)
		}
		dense = Div(wide(dense), unit)
		fmt.Fprintf(&b, "    %%w = \"stablehlo.convert\"(%%a%d) : (%s) -> %s\n", len(operands), seam.TensorType(dense.Shape()), seam.TensorType(other))
		operands, weight = append(operands, dense), "%w"
	}
	out := append([]shapes.Shape{shapes.Make(dtypes.BFloat16, m, n)}, f.rows.out[1:]...)
	fmt.Fprintf(&b, "    %%y = \"stablehlo.dot_general\"(%%rows#0, %s) {dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [1]>} : (%s, %s) -> %s\n",
		weight, seam.TensorType(x), seam.TensorType(other), seam.TensorType(out[0]))
	results := []string{"%y"}
	for i := range out[1:] {
		results = append(results, "%rows#"+strconv.Itoa(i+1))
	}
	b.WriteString(seam.Return(results, out))
	return seam.Call(seam.Body(b.String()), out, operands...)
}
