package kernels

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/quant"
)

// Shapes of Llama-3-8B: 4096 tokens, r = 16.
const (
	benchTokens, benchHidden, benchF = 4096, 4096, 14336
	benchHeads, benchKV, benchDim    = 32, 8, 128
)

// filled is an array of that shape with random content, which repeats.
func filled(s shapes.Shape) array {
	r := rand.New(rand.NewPCG(1, uint64(s.Size())))
	var pattern []byte
	if !s.DType.IsFloat() {
		for range 1 << 16 {
			pattern = append(pattern, byte(r.Uint32()))
		}
	} else {
		pattern = normal(r, s.DType, 1, min(s.Size(), 1<<16)).raw()
	}
	size := int(s.Memory())
	return array{shape: s, bytes: bytes.Repeat(pattern, size/len(pattern)+1)[:size]}
}

// benchmark runs a program that uses the operation several times, on inputs of their own, so that calls take long against
// what the host needs for one, and nothing is left in the cache from the last.
func benchmark(b *testing.B, name string, op, twin func(in []*Node) []*Node, in ...shapes.Shape) {
	const copies = 4
	for _, d := range cuda(b) {
		for _, form := range []struct {
			name string
			op   func(in []*Node) []*Node
		}{{"kernel", op}, {"twin", twin}} {
			b.Run(name+"/"+form.name, func(b *testing.B) {
				var args []any
				for range copies {
					for _, s := range in {
						args = append(args, upload(b, d, []array{filled(s)})[0])
					}
				}
				e, err := NewExec(d.Backend, func(all []*Node) []*Node {
					var out []*Node
					for i := range copies {
						out = append(out, form.op(all[i*len(in):(i+1)*len(in)])...)
					}
					return out
				})
				if err != nil {
					b.Fatal(err)
				}
				defer e.Finalize()
				moved := 0
				call := func() {
					out, err := e.Call(args...)
					if err != nil {
						b.Fatal(err)
					}
					moved = 0
					for _, x := range out {
						moved += int(x.Shape().Memory())
					}
					for _, s := range in {
						moved += copies * int(s.Memory())
					}
					if err := backend.Free(out...); err != nil {
						b.Fatal(err)
					}
				}
				sync := func() {
					if err := d.Sync(); err != nil {
						b.Fatal(err)
					}
				}
				call()
				sync()
				b.ResetTimer()
				for range b.N {
					call()
				}
				sync()
				b.StopTimer()
				seconds := b.Elapsed().Seconds() / float64(b.N)
				b.ReportMetric(float64(moved)/seconds/1e9, "GB/s")
				b.ReportMetric(seconds/copies*1e6, "µs/use")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

func bf16Shape(dims ...int) shapes.Shape { return shapes.Make(dtypes.BFloat16, dims...) }
func f32Shape(dims ...int) shapes.Shape  { return shapes.Make(dtypes.Float32, dims...) }

func BenchmarkDequantize(b *testing.B) {
	for _, c := range []struct {
		name   string
		axis   int
		nested int
	}{{"columns", 1, 0}, {"rows", 0, 0}, {"columns_nested", 1, 256}, {"rows_nested", 0, 256}} {
		l := quant.Layout{QuantType: quant.NF4, Blocksize: 64, Shape: []int{2 * benchF, benchHidden}, NestedBlocksize: c.nested}
		n := l.Shape[0] * l.Shape[1]
		in := []shapes.Shape{shapes.Make(dtypes.Uint8, n/2), f32Shape(n / 64)}
		if c.nested > 0 {
			in = append(in[:1], shapes.Make(dtypes.Uint8, n/64), f32Shape(n/64/c.nested), f32Shape(n/64/c.nested))
		}
		arrays := len(in)
		for range 2 { // gate and up
			if c.axis == 1 {
				in = append(in, f32Shape(benchF, 16))
			} else {
				in = append(in, f32Shape(16, benchHidden))
			}
		}
		factors := func(in []*Node) []Factor {
			return []Factor{{in[arrays], 1, 0}, {in[arrays+1], 1, benchF}}
		}
		benchmark(b, c.name,
			func(in []*Node) []*Node {
				if c.axis == 1 {
					return []*Node{DequantizeColumns(l, dtypes.BFloat16, factors(in), 64, in[:arrays]...)}
				}
				return []*Node{DequantizeRows(l, dtypes.BFloat16, factors(in), 64, in[:arrays]...)}
			},
			func(in []*Node) []*Node {
				return []*Node{dequantizeTwin(l, dtypes.BFloat16, factors(in), 64, c.axis, in[:arrays])}
			},
			in...)
	}
}

func BenchmarkRMSNorm(b *testing.B) {
	form := func(f func(x, gain, xa *Node, pad int, eps float64, offset bool) (h, rstd, low *Node)) func(in []*Node) []*Node {
		return func(in []*Node) []*Node {
			h, rstd, low := f(in[0], in[1], in[2], 64, 1e-5, false)
			return []*Node{h, rstd, low}
		}
	}
	benchmark(b, "forward", form(RMSNorm), form(rmsNormTwin),
		bf16Shape(benchTokens, benchHidden), bf16Shape(benchHidden), f32Shape(benchTokens, 48))
	back := func(f func(x, rstd, gain *Node, dh Rows, dres *Node, pad int, offset bool) *Node) func(in []*Node) []*Node {
		return func(in []*Node) []*Node { return []*Node{f(in[0], in[1], in[2], Rows{X: in[3]}, in[4], 64, false)} }
	}
	benchmark(b, "backward", back(ScaledRMSNormBackward), back(rmsNormBackwardTwin),
		bf16Shape(benchTokens, benchHidden), f32Shape(benchTokens), bf16Shape(benchHidden), bf16Shape(benchTokens, benchHidden),
		bf16Shape(benchTokens, benchHidden+64))
}

func BenchmarkGated(b *testing.B) {
	for _, a := range []Activation{SiLU, GELUTanh} {
		benchmark(b, a.kernel()+"/forward", func(in []*Node) []*Node { return []*Node{Gated(a, in[0], 64)} },
			func(in []*Node) []*Node { return []*Node{gatedTwin(a, Rows{X: in[0]}, 64)} }, bf16Shape(benchTokens, 2*benchF))
		benchmark(b, a.kernel()+"/low", gatedLowForm(GatedLow, a, 64), gatedLowForm(gatedLowTwin, a, 64), bf16Shape(benchTokens, 2*benchF), bf16Shape(16, benchF))
		form := func(f func(a Activation, gateUp, dact Rows, b, low, p *Node, pad int, behind *Behind) (dGateUp, dLow, db, da *Node)) func(in []*Node) []*Node {
			return func(in []*Node) []*Node {
				dGateUp, dLow, db, da := f(a, Rows{X: in[0]}, Rows{X: in[1]}, in[2], in[3], in[4], 64, nil)
				return []*Node{dGateUp, dLow, db, da}
			}
		}
		benchmark(b, a.kernel()+"/backward", form(ScaledGatedBackward), form(gatedBackwardTwin),
			bf16Shape(benchTokens, 2*benchF), bf16Shape(benchTokens, benchF), bf16Shape(2*benchF, 16), bf16Shape(benchTokens, 32), bf16Shape(benchTokens, 16))
	}
}

func BenchmarkFactors(b *testing.B) {
	benchmark(b, "low", lowForm(Low, 64), lowForm(lowTwin, 64), bf16Shape(benchTokens, benchHidden), bf16Shape(16, benchHidden))
	const out = (benchHeads + 2*benchKV) * benchDim
	for name, places := range map[string][][2]int{"gradients1": {{0, benchHidden}}, "gradients3": {{0, benchHidden}, {benchHidden, benchKV * benchDim}, {out - benchKV*benchDim, benchKV * benchDim}}} {
		form := func(f func(dy, low *Node, bs []Factor, out int, rstd *Node, ride bool) FactorGradients) func(in []*Node) []*Node {
			return func(in []*Node) []*Node {
				var bs []Factor
				for i, p := range places {
					bs = append(bs, Factor{X: in[3+i], Scale: 1, At: p[0]})
				}
				last := places[len(places)-1]
				g := f(OptimizationBarriers(in[0])[0], in[1], bs, last[0]+last[1], in[2], true)
				return append([]*Node{g.Dy, g.P, g.Scaled}, g.DB...)
			}
		}
		var factors []shapes.Shape
		width := 64
		for _, p := range places {
			width, factors = width+p[1], append(factors, f32Shape(p[1], 16))
		}
		benchmark(b, name, form(GradientsOfFactors), form(factorGradientsTwin),
			append([]shapes.Shape{bf16Shape(benchTokens, width), bf16Shape(benchTokens, 16*len(places)), f32Shape(benchTokens)}, factors...)...)
	}
}

func BenchmarkCrossEntropy(b *testing.B) {
	const rows, vocab = 1024, 128256 // of a chunk
	for _, gradient := range []bool{false, true} {
		form := func(op func(in []*Node) []*Node) func(in []*Node) []*Node {
			return func(in []*Node) []*Node {
				if gradient { // both forms' logits are a result, over which the kernel may write; making it is timed too
					in = []*Node{OptimizationBarriers(Neg(in[0]))[0], in[1]}
				}
				return op(in)
			}
		}
		benchmark(b, fmt.Sprint("gradient_", gradient), form(crossEntropyForm(CrossEntropy, gradient)), form(crossEntropyForm(crossEntropyTwin, gradient)), bf16Shape(rows, vocab), shapes.Make(dtypes.Int32, rows))
	}
}

func BenchmarkDropout(b *testing.B) {
	drop := func(keys *Node) Dropout {
		n := keys.Shape().Dimensions[0]
		return Dropout{keys, slices.Repeat([]float64{0.05}, n), slices.Repeat([]int{16}, n)}
	}
	for _, adapters := range []int{1, 3} {
		x, a, p := bf16Shape(benchTokens, benchHidden), bf16Shape(16*adapters, benchHidden), bf16Shape(benchTokens, 16*adapters)
		keys := shapes.Make(dtypes.Uint32, adapters, benchTokens)
		one := func(f func(in []*Node) *Node) func(in []*Node) []*Node {
			return func(in []*Node) []*Node { return []*Node{f(in)} }
		}
		benchmark(b, fmt.Sprint("low", adapters), one(func(in []*Node) *Node { return DropoutLow(in[0], in[1], drop(in[2])) }),
			one(func(in []*Node) *Node { return dropoutLowTwin(in[0], in[1], drop(in[2]), benchHidden) }), x, a, keys)
		benchmark(b, fmt.Sprint("product", adapters), one(func(in []*Node) *Node { return DropoutProduct(in[0], in[1], drop(in[2])) }),
			one(func(in []*Node) *Node { return dropoutProductTwin(in[0], in[1], drop(in[2])) }), p, a, keys)
		benchmark(b, fmt.Sprint("gradient", adapters), one(func(in []*Node) *Node { return DropoutGradient(in[0], in[1], benchHidden, drop(in[2])) }),
			one(func(in []*Node) *Node { return dropoutGradientTwin(in[0], in[1], benchHidden, drop(in[2])) }), p, x, keys)
	}
}

func BenchmarkRoPE(b *testing.B) {
	form := func(f func(dq, dk, dv, cos, sin *Node, pad int) *Node) func(in []*Node) []*Node {
		return func(in []*Node) []*Node { return []*Node{f(in[0], in[1], in[2], in[3], in[4], 64)} }
	}
	const seq = benchTokens / 2
	benchmark(b, "forward", ropeForm(RoPE, benchHeads, benchKV), ropeForm(ropeTwin, benchHeads, benchKV),
		bf16Shape(2, seq, (benchHeads+2*benchKV)*benchDim), f32Shape(1, seq, benchDim/2), f32Shape(1, seq, benchDim/2))
	benchmark(b, "backward", form(RoPEBackward), form(ropeBackwardTwin),
		bf16Shape(2, seq, benchHeads, benchDim), bf16Shape(2, seq, benchKV, benchDim), bf16Shape(2, seq, benchKV, benchDim),
		f32Shape(1, seq, benchDim/2), f32Shape(1, seq, benchDim/2))
}
