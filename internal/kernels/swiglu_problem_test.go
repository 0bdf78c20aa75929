package kernels

import (
	"math"
	"math/rand/v2"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
)

func silu(x float64) float64 { return x / (1 + math.Exp(-x)) }

func swiGLUProblem(dtype dtypes.DType, rows, f, pad int) problem {
	in := []array{normal(rand.New(rand.NewPCG(uint64(rows), uint64(f))), dtype, 2, rows, 2*f)}
	in[0].floats[0] = -200 // exp overflows
	want := make([]float64, rows*(f+pad))
	for t := range rows {
		for i := range f {
			want[t*(f+pad)+i] = silu(in[0].at(t, i)) * in[0].at(t, f+i)
		}
	}
	return problem{
		inputs: in, want: [][]float64{want}, launch: swiGLULaunch(dtype, rows, f, pad),
		op:   func(in []*Node) []*Node { return []*Node{SwiGLU(in[0], pad)} },
		twin: func(in []*Node) []*Node { return []*Node{swiGLUTwin(in[0], pad)} },
	}.named("SwiGLU %s %dx%d, pad %d", dtype, rows, f, pad)
}

func swiGLUBackwardProblem(dtype dtypes.DType, rows, f, r, pad int) problem {
	random := rand.New(rand.NewPCG(uint64(rows), uint64(f)))
	in := []array{
		normal(random, dtype, 1.5, rows, 2*f), normal(random, dtype, 1, rows, f), normal(random, dtype, 1, 2*f, r),
		normal(random, dtype, 1, rows, 2*r), normal(random, dtype, 1, rows, r),
	}
	call := func(f func(gateUp, dact, b, low, p *Node, pad int) (dGateUp, dLow, db, da *Node)) func(in []*Node) []*Node {
		return func(in []*Node) []*Node {
			dGateUp, dLow, db, da := f(in[0], in[1], in[2], in[3], in[4], pad)
			return []*Node{dGateUp, dLow, db, da}
		}
	}
	p := problem{
		inputs: in, launch: swiGLUBackwardLaunch(dtype, rows, f, r, pad), op: call(SwiGLUBackward), twin: call(swiGLUBackwardTwin),
	}
	if p.launch != nil && r == MaxSwiGLURank { // the kernel alone; widening smaller ranks is graph operations
		p.operands = append(in[:5:5], floatArray(dtypes.Float32, make([]float32, rows*2*r), rows, 2*r))
		p.finish = func(out []array) []array { return []array{out[0], out[1], sumSplits(out[2]), sumSplits(out[3])} }
	}
	d, dLow, db, da := make([]float64, rows*(2*f+pad)), make([]float64, rows*2*r), make([]float64, 2*f*r), make([]float64, f*r)
	for t := range rows {
		for i := range f {
			gate, up, dact := in[0].at(t, i), in[0].at(t, f+i), in[1].at(t, i)
			s := 1 / (1 + math.Exp(-gate))
			dgate, dup := dact*up*s*(1+gate*(1-s)), dact*gate*s
			d[t*(2*f+pad)+i], d[t*(2*f+pad)+f+i] = dgate, dup
			for k := range r {
				dLow[t*2*r+k] += dgate * in[2].at(i, k)
				dLow[t*2*r+r+k] += dup * in[2].at(f+i, k)
				db[i*r+k] += dgate * in[3].at(t, k)
				db[(f+i)*r+k] += dup * in[3].at(t, r+k)
				da[i*r+k] += gate * s * up * in[4].at(t, k)
			}
		}
	}
	p.want = [][]float64{d, dLow, db, da}
	return p.named("SwiGLUBackward %s %dx%d, rank %d, pad %d", dtype, rows, f, r, pad)
}

// sumSplits adds up the first axis.
func sumSplits(a array) array {
	d := a.shape.Dimensions
	sum := make([]float32, d[1]*d[2])
	for i, v := range a.floats {
		sum[i%len(sum)] += v
	}
	return floatArray(dtypes.Float32, sum, d[1:]...)
}
