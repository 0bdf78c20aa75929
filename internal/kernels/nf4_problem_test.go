package kernels

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/quant"
)

// weight describes a quantized weight; several rows are concatenated.
type weight struct {
	rows      []int
	in        int
	qt        quant.QuantType
	blocksize int
	nested    bool
}

func (w weight) pack(t testing.TB) *quant.Packed {
	t.Helper()
	var members []*quant.Packed
	for i, out := range w.rows {
		values := normal(rand.New(rand.NewPCG(uint64(out), uint64(w.in))), dtypes.Float32, 0.02*float64(i+1), out, w.in)
		for j := range w.blocksize {
			values.floats[j] = 0 // a block without scale
		}
		packed, state, err := quant.Quantize4BitRaw(values.raw(), dtypes.Float32, []int{out, w.in}, w.qt, w.blocksize, w.nested)
		if err != nil {
			t.Fatal(err)
		}
		p, err := quant.NewPacked(packed, state)
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, p)
	}
	p, err := quant.Concat(members...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// dequantizeProblem decodes a weight with adapters' factors of these ranks beside it (axis 1) or below it (axis 0), the i-th with
// the i-th rows of the weight (0: no adapter), in room for n.
func dequantizeProblem(t testing.TB, w weight, dtype dtypes.DType, axis, n int, ranks ...int) problem {
	packed := w.pack(t)
	l := packed.Layout
	out, in := l.Shape[0], l.Shape[1]
	var inputs []array
	for _, x := range packed.Inputs() {
		inputs = append(inputs, array{shape: x.Shape, bytes: x.Raw})
	}
	launch := dequantizeLaunch(l, dtype, axis, n)
	operands, unread := append([]array{}, inputs...), inputs[1]
	if w.nested && l.NestedBlocksize > 0 {
		numbers := quant.DynamicMap(true)
		operands = append(operands, floatArray(dtypes.Float32, numbers[:], 256))
	}
	var places []Factor
	tail := make([]float64, out*n)
	if axis == 0 {
		tail = make([]float64, n*in)
	}
	row, column := 0, 0
	for i, r := range ranks {
		if r == 0 {
			row += w.rows[i]
			continue
		}
		f, dims := Factor{Scale: 1 + float64(i)/2, At: row}, []int{w.rows[i], r}
		if axis == 0 {
			dims = []int{r, in}
		}
		x := normal(rand.New(rand.NewPCG(1, uint64(i))), dtypes.Float32, 1, dims...)
		for j, v := range x.floats {
			v *= float32(f.Scale)
			if dtype == dtypes.BFloat16 {
				v = bf16(v)
			}
			to := (row+j/dims[1])*n + column + j%dims[1]
			if axis == 0 {
				to = (column+j/in)*in + j%in
			}
			tail[to] = float64(v)
		}
		inputs, places = append(inputs, x), append(places, f)
		if launch != nil {
			operands = append(operands, x)
			place := f.place(axis, dims)
			launch.sizes = append(launch.sizes, place[:]...)
		}
		row, column = row+w.rows[i], column+r
	}
	for range max(0, dequantizeFactors-len(places)) {
		if launch != nil {
			operands, launch.sizes = append(operands, unread), append(launch.sizes, 0, 0, 0, 0)
		}
	}
	split := func(in []*Node) (factors []Factor, arrays []*Node) {
		factors = slices.Clone(places)
		for i := range factors {
			factors[i].X = in[len(in)-len(factors)+i]
		}
		return factors, in[:len(in)-len(factors)]
	}
	p := problem{
		inputs: inputs, operands: operands, exact: true, launch: launch,
		op: func(in []*Node) []*Node {
			factors, arrays := split(in)
			if axis == 1 {
				return []*Node{DequantizeColumns(l, dtype, factors, n, arrays...)}
			}
			return []*Node{DequantizeRows(l, dtype, factors, n, arrays...)}
		},
		twin: func(in []*Node) []*Node {
			factors, arrays := split(in)
			return []*Node{dequantizeTwin(l, dtype, factors, n, axis, arrays)}
		},
	}
	if len(places) > dequantizeFactors { // graph operations make one of them
		p.launch, p.operands, p.composite = nil, nil, true
	}
	values, err := packed.Dequantize(dtype)
	if err != nil {
		t.Fatal(err)
	}
	var want []float64
	if axis == 0 {
		want = append(wideFloats(values), tail...)
	} else {
		for row := range out {
			want = append(want, wideFloats(values[row*in:(row+1)*in])...)
			want = append(want, tail[row*n:(row+1)*n]...)
		}
	}
	p.want = [][]float64{want}
	return p.named("dequantize %v to %s, ranks %v in room for %d along axis %d", w, dtype, ranks, n, axis)
}
