package kernels

import (
	"encoding/binary"
	"math"
	"math/rand/v2"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// activation is act(x) and its derivative.
func activation(a Activation, x float64) (y, slope float64) {
	if a == SiLU {
		s := 1 / (1 + math.Exp(-x))
		return x * s, s * (1 + x*(1-s))
	}
	k := math.Sqrt(2 / math.Pi)
	t := math.Tanh(k * (x + 0.044715*x*x*x))
	return x / 2 * (1 + t), (1+t)/2 + x/2*(1-t*t)*k*(1+3*0.044715*x*x)
}

// unscaled is x [rows, n] as rows, and the factors that make x of them; none if not scaled.
func unscaled(x array, scaled bool) (rows, factors array) {
	factors = floatArray(dtypes.Float32, []float32{1}, 1) // never read
	if !scaled {
		return x, factors
	}
	d := x.shape.Dimensions
	rows, factors = floatArray(x.shape.DType, x.floats, d...), floatArray(dtypes.Float32, make([]float32, d[0]), d[0])
	for i := range rows.floats {
		factors.floats[i/d[1]] = float32(math.Ldexp(1, i/d[1]%7-3))
		rows.floats[i] /= factors.floats[i/d[1]]
	}
	return rows, factors
}

// withFactors are rows with factors, or without.
func withFactors(x, factors *Node, scaled bool) Rows {
	if !scaled {
		factors = nil
	}
	return Rows{x, factors}
}

func gatedProblem(a Activation, dtype dtypes.DType, rows, f, pad int, scaled bool) problem {
	in := []array{normal(rand.New(rand.NewPCG(uint64(rows), uint64(f))), dtype, 2, rows, 2*f)}
	in[0].floats[0] = -200 // exp overflows
	want := make([]float64, rows*(f+pad))
	for t := range rows {
		for i := range f {
			act, _ := activation(a, in[0].at(t, i))
			want[t*(f+pad)+i] = act * in[0].at(t, f+i)
		}
	}
	gateUp, factors := unscaled(in[0], scaled)
	return problem{
		inputs: []array{gateUp, factors}, want: [][]float64{want}, launch: gatedLaunch(a, dtype, rows, f, pad, scaled),
		op:   func(in []*Node) []*Node { return []*Node{ScaledGated(a, withFactors(in[0], in[1], scaled), pad)} },
		twin: func(in []*Node) []*Node { return []*Node{gatedTwin(a, withFactors(in[0], in[1], scaled), pad)} },
	}.named("Gated %s %s %dx%d, pad %d, scaled %v", a.kernel(), dtype, rows, f, pad, scaled)
}

func gatedBackwardProblem(a Activation, dtype dtypes.DType, rows, f, r, pad int, rate float64, scaled bool) problem {
	random := rand.New(rand.NewPCG(uint64(rows), uint64(f)))
	in := []array{
		normal(random, dtype, 1.5, rows, 2*f), normal(random, dtype, 1, rows, f), normal(random, dtype, 1, 2*f, r),
		normal(random, dtype, 1, rows, 2*r), normal(random, dtype, 1, rows, r),
	}
	var raw []byte
	keys := make([]uint32, rows)
	for i := range keys {
		keys[i] = random.Uint32()
		raw = binary.NativeEndian.AppendUint32(raw, keys[i])
	}
	behind := func(in []*Node) *Behind { return nil }
	gateUp, factors := unscaled(in[0], scaled)
	dact, dfactors := unscaled(in[1], scaled)
	launch := gatedBackwardLaunch(a, dtype, rows, f, r, pad, nil)
	unread := array{shape: shapes.Make(dtypes.Uint32, 1), bytes: make([]byte, 4)}
	aDown := normal(random, dtype, 1/math.Sqrt(float64(r)), r, f)
	if rate > 0 {
		dropout := Dropout{Rates: []float64{rate}, Ranks: []int{r}}
		launch = gatedBackwardLaunch(a, dtype, rows, f, r, pad, &Behind{Dropout: dropout})
		behind = func(in []*Node) *Behind {
			dropout.Keys = in[7]
			return &Behind{dropout, in[8]}
		}
		unread = array{shape: shapes.Make(dtypes.Uint32, 1, rows), bytes: raw}
	}
	if launch != nil {
		launch.scaled(withFactors(nil, new(Node), scaled), withFactors(nil, new(Node), scaled))
	}
	inputs := []array{gateUp, dact, in[2], in[3], in[4], factors, dfactors}
	if rate > 0 {
		inputs = append(inputs, unread, aDown)
	}
	p := problem{
		inputs: inputs, launch: launch,
		op: func(in []*Node) []*Node {
			dGateUp, dLow, db, da := ScaledGatedBackward(a, withFactors(in[0], in[5], scaled), withFactors(in[1], in[6], scaled), in[2], in[3], in[4], pad, behind(in))
			return []*Node{dGateUp, dLow, ReduceSum(db, 0), da}
		},
		twin: func(in []*Node) []*Node {
			dGateUp, dLow, db, da := gatedBackwardTwin(a, withFactors(in[0], in[5], scaled), withFactors(in[1], in[6], scaled), in[2], in[3], in[4], pad, behind(in))
			return []*Node{dGateUp, dLow, ReduceSum(db, 0), da}
		},
	}
	if p.launch != nil && r == MaxLowRank { // the kernel alone; widening smaller ranks is graph operations
		p.operands = append(inputs[:5:5], unread, factors, dfactors, floatArray(dtypes.Float32, make([]float32, rows*2*r), rows, 2*r))
		if rate > 0 {
			p.operands = append(p.operands, aDown)
		}
		p.finish = func(out []array) []array { return []array{out[0], out[1], sumSplits(out[2]), sumSplits(out[3])} }
	}
	d, dLow, db, da := make([]float64, rows*(2*f+pad)), make([]float64, rows*2*r), make([]float64, 2*f*r), make([]float64, f*r)
	for t := range rows {
		for i := range f {
			gate, up, dact := in[0].at(t, i), in[0].at(t, f+i), in[1].at(t, i)
			act, slope := activation(a, gate)
			kept := act
			switch {
			case !keeps(keys[t], i, rate):
				kept = 0
			case rate > 0:
				for k := range r {
					dact += in[4].at(t, k) * aDown.at(k, i)
				}
			}
			dgate, dup := dact*up*slope, dact*act
			d[t*(2*f+pad)+i], d[t*(2*f+pad)+f+i] = dgate, dup
			for k := range r {
				dLow[t*2*r+k] += dgate * in[2].at(i, k)
				dLow[t*2*r+r+k] += dup * in[2].at(f+i, k)
				db[i*r+k] += dgate * in[3].at(t, k)
				db[(f+i)*r+k] += dup * in[3].at(t, r+k)
				da[i*r+k] += kept * up * in[4].at(t, k)
			}
		}
	}
	p.want = [][]float64{d, dLow, db, da}
	return p.named("GatedBackward %s %s %dx%d, rank %d, pad %d, rate %g, scaled %v", a.kernel(), dtype, rows, f, r, pad, rate, scaled)
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
