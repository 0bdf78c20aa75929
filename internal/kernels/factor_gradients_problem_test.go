package kernels

import (
	"math/rand/v2"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
)

// linear is one of a group whose adapter has a rank; 0: it has none.
type linear struct{ out, rank int }

func factorGradientsProblem(dtype dtypes.DType, rows, pad int, linears []linear, scaled, ride bool) problem {
	random := rand.New(rand.NewPCG(uint64(rows), uint64(pad)))
	out, n := 0, 0
	var bs []Factor
	var places []beside
	var factors []array
	for i, l := range linears {
		if l.rank > 0 {
			factors = append(factors, normal(random, dtypes.Float32, 0.1, l.out, l.rank))
			scale := []float64{2, 0.5, 1.25}[i%3]
			bs, places = append(bs, Factor{Scale: scale, At: out}), append(places, beside{out, l.out, l.rank, scale})
		}
		out, n = out+l.out, n+l.rank
	}
	dy, low, rstd := normal(random, dtype, 1, rows, out+pad), normal(random, dtype, 1, rows, n), normal(random, dtypes.Float32, 1, rows)
	for t := range rows {
		clear(dy.floats[t*(out+pad)+out : (t+1)*(out+pad)])
	}
	products := make([]float64, rows*n)
	var dBs [][]float64
	column := 0
	for i, f := range factors {
		d := f.shape.Dimensions
		dB := make([]float64, d[0]*d[1])
		for t := range rows {
			for o := range d[0] {
				for k := range d[1] {
					b := f.at(o, k) * bs[i].Scale // and what kernel and twin make of it, rounded
					if dtype == dtypes.BFloat16 {
						b = float64(bf16(float32(f.at(o, k)) * float32(bs[i].Scale)))
					}
					products[t*n+column+k] += dy.at(t, bs[i].At+o) * b
					dB[o*d[1]+k] += dy.at(t, bs[i].At+o) * low.at(t, column+k) * bs[i].Scale
				}
			}
		}
		dBs = append(dBs, dB)
		column += d[1]
	}
	results := func(f func(dy, low *Node, bs []Factor, out int, rstd *Node, ride bool) FactorGradients) func(in []*Node) []*Node {
		return func(in []*Node) []*Node {
			return gradientsOf(bs, in[3:], in[2], scaled, func(bs []Factor, rstd *Node) FactorGradients { return f(in[0], in[1], bs, out, rstd, ride) })
		}
	}
	p := problem{
		inputs: append([]array{dy, low, rstd}, factors...), want: wantGradients(dy, rstd, products, dBs, out, scaled, ride), op: results(GradientsOfFactors), twin: results(factorGradientsTwin),
		launch: factorGradientsLaunch(dtype, rows, out+pad, out, places),
	}
	if p.launch != nil {
		p.operands = []array{dy, low}
		for i := range maxFactors {
			p.operands = append(p.operands, factors[min(i, len(factors)-1)])
		}
		sums := stripedSums(dy.shape, out, places, scaled, ride, p.launch.out[1].Dim(0))
		p.call = func(in ...*Node) []*Node {
			parts := p.launch.call(in...)
			g := sums.call(parts[0], parts[1], in[0], nil) // without rstd, which is none of the operands
			return append([]*Node{g.Dy, g.P}, g.DB...)
		}
		p.next = func(parts []array) (*launch, []array) { return sums.launch, append(parts, dy, rstd) }
		p.finish = finishSums(dy, len(factors), scaled, ride)
	}
	return p.named("GradientsOfFactors %s %dx%d+%d %v, scaled %v, rides %v", dtype, rows, out, pad, linears, scaled, ride)
}

// wantGradients are all results, for the products dy·B and the gradients of the factors.
func wantGradients(dy, rstd array, products []float64, dBs [][]float64, out int, scaled, ride bool) [][]float64 {
	rows, width := dy.shape.Dim(0), dy.shape.Dim(1)
	n := len(products) / rows
	whole, total := wideFloats(dy.floats), make([]float64, rows*n)
	for t := range rows {
		own := products[t*n : (t+1)*n]
		for k, v := range own {
			total[t*n+k] = v * rstd.at(t)
		}
		if ride {
			copy(whole[t*width+out:], own)
		}
	}
	want := append([][]float64{whole, products}, dBs...)
	if scaled {
		want = append(want, total)
	}
	return want
}

// gradientsOf are the results of f for the factors with these values, one after the other.
func gradientsOf(bs []Factor, values []*Node, rstd *Node, scaled bool, f func(bs []Factor, rstd *Node) FactorGradients) []*Node {
	own := append([]Factor{}, bs...)
	for i := range own {
		own[i].X = values[i]
	}
	if !scaled {
		rstd = nil
	}
	g := f(own, rstd)
	all := append([]*Node{g.Dy, g.P}, g.DB...)
	if scaled {
		all = append(all, g.Scaled)
	}
	return all
}

// finishSums makes of what factor_sums puts out the results in that order.
func finishSums(dy array, factors int, scaled, ride bool) func(out []array) []array {
	return func(out []array) []array {
		all := append([]array{out[0], out[1]}, out[3:3+factors]...)
		if !ride {
			all[0] = dy
		}
		if scaled {
			all = append(all, out[2])
		}
		return all
	}
}

func sumsOfFactorsProblem(dtype dtypes.DType, rows, pad, parts int, linears []linear, scaled, ride bool) problem {
	random := rand.New(rand.NewPCG(uint64(rows), uint64(parts)))
	out, n, most := 0, 0, 0
	var bs []Factor
	var places []beside
	var factors []array
	for i, l := range linears {
		scale := []float64{2, 0.5}[i]
		factors = append(factors, normal(random, dtypes.Float32, 1, l.out, l.rank)) // only shapes count
		bs, places = append(bs, Factor{Scale: scale, At: out}), append(places, beside{out, l.out, l.rank, scale})
		out, n, most = out+l.out, n+l.rank, max(most, l.rank)
	}
	dy, rstd := normal(random, dtype, 1, rows, out+pad), normal(random, dtypes.Float32, 1, rows)
	products, db := normal(random, dtypes.Float32, 1, rows, n), normal(random, dtypes.Float32, 1, parts, out, most)
	var dBs [][]float64
	for i, l := range linears {
		sums := make([]float64, l.out*l.rank)
		for part := range parts {
			for o := range l.out {
				for k := range l.rank {
					sums[o*l.rank+k] += db.at(part, bs[i].At+o, k) * bs[i].Scale
				}
			}
		}
		dBs = append(dBs, sums)
	}
	results := func(f func(dy, p, db *Node, bs []Factor, out int, rstd *Node, ride bool) FactorGradients) func(in []*Node) []*Node {
		return func(in []*Node) []*Node {
			return gradientsOf(bs, in[4:], in[3], scaled, func(bs []Factor, rstd *Node) FactorGradients { return f(in[0], in[1], in[2], bs, out, rstd, ride) })
		}
	}
	sums := wholeSums(dy.shape, out, places, scaled, ride, parts, most)
	return problem{
		inputs: append([]array{dy, products, db, rstd}, factors...), operands: []array{products, db, dy, rstd},
		want: wantGradients(dy, rstd, wideFloats(products.floats), dBs, out, scaled, ride),
		op:   results(SumsOfFactors), twin: results(sumsOfFactorsTwin), launch: sums.launch, finish: finishSums(dy, len(linears), scaled, ride),
	}.named("SumsOfFactors %s %dx%d+%d, %d parts, %v, scaled %v, rides %v", dtype, rows, out, pad, parts, linears, scaled, ride)
}
