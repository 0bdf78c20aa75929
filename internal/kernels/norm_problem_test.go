package kernels

import (
	"math"
	"math/rand/v2"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
)

const testEps = 1e-5

// rmsNormProblem is RMSNorm of rows, with n columns of an adapter's product, or none.
func rmsNormProblem(dtype dtypes.DType, rows, hidden, n, pad int, offset bool) problem {
	r := rand.New(rand.NewPCG(uint64(rows), uint64(hidden+n)))
	in := []array{normal(r, dtype, 1.7, rows, hidden), normal(r, dtype, 1, hidden)}
	if n > 0 {
		in = append(in, normal(r, dtypes.Float32, 0.3, rows, n))
	}
	results := func(h, rstd, low *Node) []*Node {
		if low == nil {
			return []*Node{h, rstd}
		}
		return []*Node{h, rstd, low}
	}
	xa := func(in []*Node) *Node {
		if n == 0 {
			return nil
		}
		return in[2]
	}
	p := problem{
		inputs: in, launch: rmsNormLaunch(dtype, rows, hidden, n, pad, testEps, offset),
		op:   func(in []*Node) []*Node { return results(RMSNorm(in[0], in[1], xa(in), pad, testEps, offset)) },
		twin: func(in []*Node) []*Node { return results(rmsNormTwin(in[0], in[1], xa(in), pad, testEps, offset)) },
	}
	if n == 0 {
		p.operands = []array{in[0], in[1], in[1]}
		p.finish = func(out []array) []array { return out[:2] }
	}
	h, rstds, low := make([]float64, rows*(hidden+pad)), make([]float64, rows), make([]float64, rows*n)
	for t := range rows {
		rstd := rstdOf(in[0], t)
		rstds[t] = rstd
		for i := range hidden {
			h[t*(hidden+pad)+i] = in[0].at(t, i) * rstd * (in[1].at(i) + float64(flag(offset)))
		}
		for i := range n {
			low[t*n+i] = in[2].at(t, i) * rstd
			h[t*(hidden+pad)+hidden+i] = low[t*n+i]
		}
	}
	p.want = [][]float64{h, rstds, low}[:len(in)]
	return p.named("RMSNorm %s %dx%d, %d of %d besides, offset %v", dtype, rows, hidden, n, pad, offset)
}

func rstdOf(x array, row int) float64 {
	hidden := x.shape.Dimensions[1]
	sum := 0.0
	for i := range hidden {
		sum += x.at(row, i) * x.at(row, i)
	}
	return 1 / math.Sqrt(sum/float64(hidden)+testEps)
}

// rmsNormBackwardProblem is the backward, with a residual gradient of so many columns, or none.
func rmsNormBackwardProblem(dtype dtypes.DType, rows, hidden, residual, pad int, offset, scaled bool) problem {
	r := rand.New(rand.NewPCG(uint64(rows), uint64(hidden+residual)))
	x, gain, dh := normal(r, dtype, 1.7, rows, hidden), normal(r, dtype, 1, hidden), normal(r, dtype, 1, rows, hidden)
	rstds := make([]float32, rows)
	for t := range rstds {
		rstds[t] = float32(rstdOf(x, t))
	}
	rowsOf, factors := unscaled(dh, scaled)
	in := []array{x, floatArray(dtypes.Float32, rstds, rows), gain, rowsOf, factors}
	if residual > 0 {
		in = append(in, normal(r, dtype, 0.5, rows, residual))
	}
	call := func(f func(x, rstd, gain *Node, dh Rows, dres *Node, pad int, offset bool) *Node) func(in []*Node) []*Node {
		return func(in []*Node) []*Node {
			return []*Node{f(in[0], in[1], in[2], withFactors(in[3], in[4], scaled), append(in, nil)[5], pad, offset)}
		}
	}
	p := problem{
		inputs: in, launch: rmsNormBackwardLaunch(dtype, rows, hidden, residual, pad, offset, scaled),
		op: call(ScaledRMSNormBackward), twin: call(rmsNormBackwardTwin),
	}
	p.operands = append(in[:4:4], rowsOf, factors)
	if residual > 0 {
		p.operands[4] = in[5]
	}
	dx := make([]float64, rows*(hidden+pad))
	for t := range rows {
		rstd, mean := rstdOf(x, t), 0.0
		for i := range hidden {
			mean += dh.at(t, i) * (gain.at(i) + float64(flag(offset))) * x.at(t, i) / float64(hidden)
		}
		for i := range hidden {
			d := rstd * (dh.at(t, i)*(gain.at(i)+float64(flag(offset))) - x.at(t, i)*rstd*rstd*mean)
			if residual > 0 {
				d += in[5].at(t, i)
			}
			dx[t*(hidden+pad)+i] = d
		}
	}
	p.want = [][]float64{dx}
	return p.named("RMSNormBackward %s %dx%d, residual %d, pad %d, offset %v, scaled %v", dtype, rows, hidden, residual, pad, offset, scaled)
}

// turned are the heads of x [B, S, heads, D] at token s of row b, rotated by the angles of the tables or, with sign -1, back.
func turned(x, cos, sin array, b, s int, sign float64) (all []float64) {
	heads, dim := x.shape.Dimensions[2], x.shape.Dimensions[3]
	table := b % cos.shape.Dimensions[0]
	for h := range heads {
		rotated := make([]float64, dim)
		for i := range dim / 2 {
			c, n := cos.at(table, s, i), sign*sin.at(table, s, i)
			re, im := x.at(b, s, h, i), x.at(b, s, h, i+dim/2)
			rotated[i], rotated[i+dim/2] = re*c-im*n, im*c+re*n
		}
		all = append(all, rotated...)
	}
	return all
}

// ropeInputs are queries, keys and values, and tables for each row of the batch or one for all.
func ropeInputs(dtype dtypes.DType, batch, seq, heads, kvHeads, dim, tables int) []array {
	r := rand.New(rand.NewPCG(uint64(batch*seq), uint64(dim)))
	cos, sin := make([]float32, tables*seq*dim/2), make([]float32, tables*seq*dim/2)
	for i := range cos {
		s, c := math.Sincos(r.Float64() * 100)
		cos[i], sin[i] = float32(c), float32(s)
	}
	return []array{
		normal(r, dtype, 1, batch, seq, heads, dim), normal(r, dtype, 1, batch, seq, kvHeads, dim), normal(r, dtype, 1, batch, seq, kvHeads, dim),
		floatArray(dtypes.Float32, cos, tables, seq, dim/2), floatArray(dtypes.Float32, sin, tables, seq, dim/2),
	}
}

// ropeForm is f, the operation or its twin, on qkv and the tables.
func ropeForm(f func(qkv, cos, sin *Node, heads, kvHeads int) (q, k, v *Node), heads, kvHeads int) func(in []*Node) []*Node {
	return func(in []*Node) []*Node {
		q, k, v := f(in[0], in[1], in[2], heads, kvHeads)
		return []*Node{q, k, v}
	}
}

// ropeProblem is the rotation of queries and keys.
func ropeProblem(dtype dtypes.DType, batch, seq, heads, kvHeads, dim, tables int) problem {
	in := ropeInputs(dtype, batch, seq, heads, kvHeads, dim, tables)
	var qkv []float32
	for t := range batch * seq {
		for _, x := range in[:3] {
			n := x.shape.Dimensions[2] * dim
			qkv = append(qkv, x.floats[t*n:(t+1)*n]...)
		}
	}
	p := problem{
		inputs: []array{floatArray(dtype, qkv, batch, seq, (heads+2*kvHeads)*dim), in[3], in[4]},
		launch: ropeLaunch(dtype, batch, seq, heads, kvHeads, dim, tables),
		op:     ropeForm(RoPE, heads, kvHeads), twin: ropeForm(ropeTwin, heads, kvHeads),
	}
	var q, k []float64
	for b := range batch {
		for s := range seq {
			q, k = append(q, turned(in[0], in[3], in[4], b, s, 1)...), append(k, turned(in[1], in[3], in[4], b, s, 1)...)
		}
	}
	p.want = [][]float64{q, k, wideFloats(in[2].floats)}
	return p.named("RoPE %s %dx%d, %d+%d heads of %d, %d tables", dtype, batch, seq, heads, kvHeads, dim, tables)
}

// ropeBackwardProblem is the backward of rotary embeddings.
func ropeBackwardProblem(dtype dtypes.DType, batch, seq, heads, kvHeads, dim, tables, pad int) problem {
	in := ropeInputs(dtype, batch, seq, heads, kvHeads, dim, tables)
	call := func(f func(dq, dk, dv, cos, sin *Node, pad int) *Node) func(in []*Node) []*Node {
		return func(in []*Node) []*Node { return []*Node{f(in[0], in[1], in[2], in[3], in[4], pad)} }
	}
	p := problem{
		inputs: in, launch: ropeBackwardLaunch(dtype, batch, seq, heads, kvHeads, dim, tables, pad),
		op: call(RoPEBackward), twin: call(ropeBackwardTwin),
	}
	var want []float64
	for b := range batch {
		for s := range seq {
			for _, x := range in[:2] {
				want = append(want, turned(x, in[3], in[4], b, s, -1)...)
			}
			for i := range kvHeads * dim {
				want = append(want, in[2].at(b, s, i/dim, i%dim))
			}
			want = append(want, make([]float64, pad)...)
		}
	}
	p.want = [][]float64{want}
	return p.named("RoPEBackward %s %dx%d, %d+%d heads of %d, %d tables, pad %d", dtype, batch, seq, heads, kvHeads, dim, tables, pad)
}
