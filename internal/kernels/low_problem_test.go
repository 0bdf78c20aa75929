package kernels

import (
	"math"
	"math/rand/v2"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
)

// gatedLowForm is f, the operation or its twin, on gateUp and A.
func gatedLowForm(f func(a Activation, gateUp, adapter *Node, pad int) (act, low *Node), a Activation, pad int) func(in []*Node) []*Node {
	return lowForm(func(gateUp, adapter *Node, pad int) (act, low *Node) { return f(a, gateUp, adapter, pad) }, pad)
}

func lowForm(f func(x, adapter *Node, pad int) (both, low *Node), pad int) func(in []*Node) []*Node {
	return func(in []*Node) []*Node {
		both, low := f(in[0], in[1], pad)
		return []*Node{both, low}
	}
}

func gatedLowProblem(a Activation, dtype dtypes.DType, rows, f, n, pad int) problem {
	gateUp := normal(rand.New(rand.NewPCG(uint64(rows), uint64(f))), dtype, 1.5, rows, 2*f)
	act := make([]float64, rows*f)
	for t := range rows {
		for i := range f {
			act[t*f+i], _ = activation(a, gateUp.at(t, i))
			act[t*f+i] *= gateUp.at(t, f+i)
		}
	}
	p := lowOfProblem(a.kernel()+"_low", gateUp, act, n, pad)
	p.op, p.twin = gatedLowForm(GatedLow, a, pad), gatedLowForm(gatedLowTwin, a, pad)
	return p.named("GatedLow %s %s %dx%d, rank %d, pad %d", a.kernel(), dtype, rows, f, n, pad)
}

func lowProblem(dtype dtypes.DType, rows, in, n, pad int) problem {
	x := normal(rand.New(rand.NewPCG(uint64(rows), uint64(in))), dtype, 1.5, rows, in)
	p := lowOfProblem("low", x, wideFloats(x.floats), n, pad)
	p.op, p.twin = lowForm(Low, pad), lowForm(lowTwin, pad)
	return p.named("Low %s %dx%d, rank %d, pad %d", dtype, rows, in, n, pad)
}

// lowOfProblem is one of a kernel for an input of which it makes x, of as many rows.
func lowOfProblem(kernel string, input array, x []float64, n, pad int) problem {
	rows := input.shape.Dim(0)
	dtype, in := input.shape.DType, len(x)/rows
	adapter := normal(rand.New(rand.NewPCG(uint64(n), uint64(in))), dtype, 1/math.Sqrt(float64(in)), n, in)
	both, low := make([]float64, rows*(in+pad)), make([]float64, rows*n)
	for t := range rows {
		for i := range in {
			both[t*(in+pad)+i] = x[t*in+i]
			for k := range n {
				low[t*n+k] += x[t*in+i] * adapter.at(k, i)
			}
		}
		copy(both[t*(in+pad)+in:], low[t*n:(t+1)*n])
	}
	p := problem{inputs: []array{input, adapter}, want: [][]float64{both, low}, launch: lowLaunch(kernel, dtype, rows, in, n, pad)}
	if p.launch != nil { // the kernel alone takes its full rank
		whole := floatArray(dtype, append(adapter.floats, make([]float32, (MaxLowRank-n)*in)...), MaxLowRank, in)
		p.operands = []array{input, whole}
		p.finish = func(out []array) []array {
			cut := make([]float32, 0, rows*n)
			for t := range rows {
				cut = append(cut, out[1].floats[t*MaxLowRank:t*MaxLowRank+n]...)
			}
			return []array{out[0], floatArray(dtype, cut, rows, n)}
		}
	}
	return p
}
