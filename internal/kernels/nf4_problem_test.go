package kernels

import (
	"math/rand/v2"
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

// dequantizeProblem decodes a weight with n columns beside it (axis 1) or rows below it (axis 0).
func dequantizeProblem(t testing.TB, w weight, dtype dtypes.DType, axis, n int) problem {
	packed := w.pack(t)
	l := packed.Layout
	out, in := l.Shape[0], l.Shape[1]
	var inputs []array
	for _, x := range packed.Inputs() {
		inputs = append(inputs, array{shape: x.Shape, bytes: x.Raw})
	}
	arrays := len(inputs)
	tail := array{}
	if n > 0 {
		dims := []int{out, in}
		dims[axis] = n
		tail = normal(rand.New(rand.NewPCG(1, 2)), dtype, 1, dims...)
		inputs = append(inputs, tail)
	}
	split := func(in []*Node) (tail *Node, arrays []*Node) {
		if n == 0 {
			return nil, in
		}
		return in[len(in)-1], in[:len(in)-1]
	}
	p := problem{
		inputs: inputs, exact: true, launch: dequantizeLaunch(l, dtype, axis, n),
		op: func(in []*Node) []*Node {
			tail, arrays := split(in)
			if axis == 1 {
				return []*Node{DequantizeColumns(l, dtype, tail, arrays...)}
			}
			return []*Node{DequantizeRows(l, dtype, tail, arrays...)}
		},
		twin: func(in []*Node) []*Node {
			tail, arrays := split(in)
			return []*Node{dequantizeTwin(l, dtype, tail, axis, arrays)}
		},
	}
	p.operands = append([]array{}, inputs[:arrays]...)
	if w.nested && l.NestedBlocksize > 0 {
		numbers := quant.DynamicMap(true)
		p.operands = append(p.operands, floatArray(dtypes.Float32, numbers[:], 256))
	}
	if n == 0 {
		tail = inputs[1]
	}
	p.operands = append(p.operands, tail)

	values, err := packed.Dequantize(dtype)
	if err != nil {
		t.Fatal(err)
	}
	var want []float64
	if axis == 0 {
		want = append(wideFloats(values), wideFloats(tail.floats)...)
	} else {
		for row := range out {
			want = append(want, wideFloats(values[row*in:(row+1)*in])...)
			want = append(want, wideFloats(tail.floats[row*n:(row+1)*n])...)
		}
	}
	p.want = [][]float64{want}
	return p.named("dequantize %v to %s, %d along axis %d", w, dtype, n, axis)
}
