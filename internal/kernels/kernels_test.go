package kernels

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/quant"
)

// reference tolerances: a result in bf16 is within one or two roundings of 2⁻⁹.
var toReference = map[dtypes.DType]float64{dtypes.Float32: 3e-6, dtypes.BFloat16: 5e-3}

// Between kernel and twin only a few roundings fall differently; but XLA may compute a narrow product without rounding its
// operands to bf16 first (it permits itself excess precision), as products of adapters of low ranks are.
var toTwin = map[dtypes.DType]float64{dtypes.BFloat16: 2.5e-3}

// problems are small, and odd where a kernel or a twin may trip.
func problems(t testing.TB) []problem {
	var all []problem
	for _, dtype := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16} {
		all = append(all, decodingProblems(t, dtype)...)
		all = append(all, dropoutProblems(dtype)...)
		all = append(all, float8Problems(t, dtype)...)
		all = append(all,
			rmsNormProblem(dtype, 1, 64, 16, 64, false), rmsNormProblem(dtype, 5, 1000, 1, 8, true), rmsNormBackwardProblem(dtype, 7, 576, 640, 64, true, false), rmsNormProblem(dtype, 7, 576, 48, 64, false), rmsNormProblem(dtype, 5, 1000, 1, 8, false),
			rmsNormProblem(dtype, 3, 4096, 0, 0, false), rmsNormProblem(dtype, 2, 10000, 130, 136, false), rmsNormProblem(dtype, 3, 37, 5, 8, false),
			rmsNormProblem(dtype, 3, 64, 0, 64, false), rmsNormProblem(dtype, 1, 16384, 96, 128, false), rmsNormProblem(dtype, 1, 16392, 1, 8, false),
			rmsNormBackwardProblem(dtype, 1, 64, 64, 64, false, false), rmsNormBackwardProblem(dtype, 7, 576, 640, 64, false, false), rmsNormBackwardProblem(dtype, 5, 1000, 0, 8, false, false),
			rmsNormBackwardProblem(dtype, 3, 4096, 4096, 0, false, false), rmsNormBackwardProblem(dtype, 2, 10000, 10064, 576, false, false), rmsNormBackwardProblem(dtype, 3, 37, 40, 8, false, false), rmsNormBackwardProblem(dtype, 9, 72, 80, 8, true, true),
			gatedProblem(SiLU, dtype, 1, 8, 0, false), gatedProblem(SiLU, dtype, 5, 1536, 64, false), gatedProblem(SiLU, dtype, 3, 5000, 64, false), gatedProblem(SiLU, dtype, 3, 37, 8, false),
			gatedProblem(SiLU, dtype, 2, 64, 4096, false), gatedProblem(GELUTanh, dtype, 9, 8, 0, true), gatedProblem(GELUTanh, dtype, 3, 2600, 64, false),
			ropeBackwardProblem(dtype, 1, 1, 1, 1, 16, 1, 0), ropeBackwardProblem(dtype, 2, 7, 4, 2, 64, 1, 64), ropeBackwardProblem(dtype, 3, 5, 9, 3, 48, 3, 8),
			ropeBackwardProblem(dtype, 2, 3, 8, 1, 128, 1, 64), ropeBackwardProblem(dtype, 2, 3, 2, 2, 10, 2, 8),
			ropeProblem(dtype, 1, 1, 1, 1, 16, 1), ropeProblem(dtype, 2, 7, 4, 2, 64, 1), ropeProblem(dtype, 3, 5, 9, 3, 48, 3), ropeProblem(dtype, 2, 3, 8, 1, 128, 1), ropeProblem(dtype, 2, 3, 2, 2, 10, 2),
			gatedLowProblem(SiLU, dtype, 1, 64, 16, 16), gatedLowProblem(SiLU, dtype, 37, 1600, 16, 64), gatedLowProblem(GELUTanh, dtype, 25, 576, 5, 64),
			gatedLowProblem(GELUTanh, dtype, 16, 128, 1, 24), gatedLowProblem(SiLU, dtype, 9, 40, 3, 8), gatedLowProblem(SiLU, dtype, 9, 64, 24, 64),
			lowProblem(dtype, 1, 64, 16, 16), lowProblem(dtype, 37, 1600, 16, 64), lowProblem(dtype, 25, 576, 5, 64), lowProblem(dtype, 9, 40, 3, 8),
			gatedBackwardProblem(SiLU, dtype, 1, 128, 16, 64, 0, false), gatedBackwardProblem(SiLU, dtype, 70, 256, 16, 64, 0, false), gatedBackwardProblem(SiLU, dtype, 150, 128, 16, 0, 0, false),
			gatedBackwardProblem(SiLU, dtype, 65, 128, 8, 64, 0, false), gatedBackwardProblem(SiLU, dtype, 33, 128, 1, 8, 0, false), gatedBackwardProblem(SiLU, dtype, 9, 40, 3, 8, 0, false),
			gatedBackwardProblem(SiLU, dtype, 20, 128, 32, 64, 0, false), gatedBackwardProblem(SiLU, dtype, 70, 128, 16, 64, 0.3, false),
			gatedBackwardProblem(GELUTanh, dtype, 70, 256, 16, 64, 0, false), gatedBackwardProblem(GELUTanh, dtype, 9, 40, 3, 8, 0.5, true), gatedBackwardProblem(SiLU, dtype, 73, 128, 16, 64, 0, true), gatedBackwardProblem(GELUTanh, dtype, 9, 128, 16, 64, 0.1, true), gatedBackwardProblem(GELUTanh, dtype, 9, 128, 16, 64, 0, true),
		)
		all = append(all,
			sumsOfFactorsProblem(dtype, 1, 64, 1, []linear{{8, 16}}, false, true), sumsOfFactorsProblem(dtype, 37, 64, 5, []linear{{72, 16}, {136, 16}}, true, true),
			sumsOfFactorsProblem(dtype, 300, 24, 2, []linear{{40, 8}, {16, 4}}, true, false), sumsOfFactorsProblem(dtype, 9, 64, 3, []linear{{20, 3}, {20, 16}}, true, true),
			factorGradientsProblem(dtype, 1, 16, []linear{{8, 16}}, false, true), factorGradientsProblem(dtype, 70, 64, []linear{{512, 16}, {128, 16}, {64, 16}}, true, true),
			factorGradientsProblem(dtype, 33, 64, []linear{{264, 8}, {40, 0}, {32, 16}}, true, true), factorGradientsProblem(dtype, 161, 24, []linear{{520, 16}}, false, false),
			factorGradientsProblem(dtype, 300, 0, []linear{{72, 8}, {16, 8}}, true, false), factorGradientsProblem(dtype, 9, 64, []linear{{36, 16}}, true, true),
			factorGradientsProblem(dtype, 9, 64, []linear{{64, 5}}, false, true), factorGradientsProblem(dtype, 9, 64, []linear{{8, 8}, {8, 8}, {8, 8}, {8, 8}}, true, true),
		)
		for _, gradient := range []bool{true, false} {
			all = append(all,
				crossEntropyProblem(dtype, 1, 8, 1, gradient), crossEntropyProblem(dtype, 1, 16, 1, gradient), crossEntropyProblem(dtype, 10, 40, 3, gradient),
				crossEntropyProblem(dtype, 9, 37, 1, gradient), crossEntropyProblem(dtype, 11, 1000, 40, gradient), crossEntropyProblem(dtype, 9, 50000, 2, gradient),
			)
		}
		for _, w := range []weight{
			{[]int{64}, 64, quant.NF4, 64, false}, {[]int{64}, 64, quant.NF4, 64, true}, {[]int{96, 32, 32}, 576, quant.NF4, 64, true},
			{[]int{130}, 192, quant.FP4, 64, false}, {[]int{66}, 320, quant.FP4, 64, true}, {[]int{128, 128}, 256, quant.NF4, 128, true},
			{[]int{6}, 1024, quant.NF4, 4096, false}, {[]int{300}, 128, quant.NF4, 32, true}, {[]int{33}, 64, quant.NF4, 64, true},
			{[]int{10}, 60, quant.NF4, 64, false}, {[]int{32, 8, 8, 16}, 64, quant.NF4, 64, true},
		} {
			each := []int{16, 5, 8, 3}[:len(w.rows)] // ranks
			all = append(all, dequantizeProblem(t, w, dtype, 1, 0), dequantizeProblem(t, w, dtype, 1, 64), dequantizeProblem(t, w, dtype, 1, 64, each...),
				dequantizeProblem(t, w, dtype, 1, 8, 8), dequantizeProblem(t, w, dtype, 0, 64, each...), dequantizeProblem(t, w, dtype, 0, 3, 3), dequantizeProblem(t, w, dtype, 0, 64),
				dequantizeProblem(t, w, dtype, 1, 5, 5))
			if len(w.rows) > 2 { // the second has no adapter
				all = append(all, dequantizeProblem(t, w, dtype, 1, 32, 16, 0, 16), dequantizeProblem(t, w, dtype, 0, 30, 16, 0, 14))
			}
		}
	}
	return all
}

func TestOperationsAndTwinsEqualFloat64References(t *testing.T) {
	for _, spec := range append([]string{"go"}, strings.Fields(os.Getenv("LORIS_TEST_BACKENDS"))...) {
		t.Run(spec, func(t *testing.T) {
			d := open(t, spec)
			for i, p := range problems(t) {
				if spec == "xla:cpu" && i%3 != 0 { // each takes a second to compile there
					continue
				}
				got := run(t, d, func(in []*Node) []*Node { return append(p.op(in), p.twin(in)...) }, p.inputs)
				requireClose(t, p, got[:len(got)/2], p.want, toReference)
				requireClose(t, p, got[len(got)/2:], p.want, toReference)
			}
		})
	}
}

// XLA on the CPU knows no PTX, and says so only after it has read and verified the program.
func TestLaunchesAreProgramsThatXLATakes(t *testing.T) {
	for _, spec := range strings.Fields(os.Getenv("LORIS_TEST_BACKENDS")) {
		d := open(t, spec)
		if !seam.Available(d.Backend) || Available(d.Backend) {
			continue
		}
		seen := map[string]bool{}
		for _, p := range problems(t) {
			if p.launch == nil && p.call == nil {
				continue
			}
			kind := p.name // of composites
			if p.launch != nil {
				kind = fmt.Sprint(p.launch.kernel, p.operands == nil)
			}
			if seen[kind] {
				continue
			}
			seen[kind] = true
			_, err := CallOnceN(d.Backend, func(in []*Node) []*Node {
				if p.launch != nil && strings.Contains(p.launch.kernel, "glu_backward") && p.operands == nil {
					dGateUp, dLow, db, da := gatedBackwardCall(p.launch, Rows{X: in[0]}, Rows{X: in[1]}, in[2], in[3], in[4], nil)
					return []*Node{dGateUp, dLow, ReduceSum(db, 0), da}
				}
				if p.call != nil {
					return p.call(in...)
				}
				return p.launch.call(in...)
			}, upload(t, d, p.onDevice())...)
			if err == nil || !strings.Contains(err.Error(), "No FFI handler registered for __gpu$xla.gpu.ptx") {
				t.Errorf("%s: got error %v", p.name, err)
			}
		}
		if len(seen) < 12 {
			t.Errorf("%s: tried only %v", spec, seen)
		}
	}
}

// largeProblems are of the sizes that models have. Making one takes seconds, so whoever needs it makes it.
func largeProblems(t *testing.T) (all []func() []problem) {
	const dtype = dtypes.BFloat16
	one := func(f func() problem) { all = append(all, func() []problem { return []problem{f()} }) }
	one(func() problem { return rmsNormProblem(dtype, 4096, 4096, 48, 64, false) })
	one(func() problem { return rmsNormBackwardProblem(dtype, 4096, 4096, 4160, 64, false, false) })
	one(func() problem { return ropeBackwardProblem(dtype, 2, 1024, 32, 8, 128, 1, 64) })
	one(func() problem { return ropeProblem(dtype, 2, 1024, 32, 8, 128, 1) })
	one(func() problem { return gatedProblem(SiLU, dtype, 2048, 14336, 64, false) })
	one(func() problem { return gatedProblem(GELUTanh, dtype, 2048, 9216, 64, false) })
	one(func() problem { return gatedBackwardProblem(SiLU, dtype, 1024, 14336, 16, 64, 0, false) })
	one(func() problem { return gatedBackwardProblem(SiLU, dtype, 1000, 1536, 8, 64, 0.1, false) })
	one(func() problem { return gatedBackwardProblem(GELUTanh, dtype, 1000, 9216, 16, 64, 0.05, false) })
	one(func() problem { return gatedLowProblem(SiLU, dtype, 1000, 14336, 16, 64) })
	one(func() problem { return gatedLowProblem(GELUTanh, dtype, 1030, 9216, 8, 64) })
	one(func() problem { return lowProblem(dtype, 1030, 4096, 16, 64) })
	one(func() problem {
		return factorGradientsProblem(dtype, 2048, 64, []linear{{4096, 16}, {1024, 16}, {1024, 16}}, true, true)
	})
	one(func() problem { return factorGradientsProblem(dtype, 1000, 64, []linear{{4096, 8}}, false, true) })
	one(func() problem { return crossEntropyProblem(dtype, 24, 128256, 3, true) })
	one(func() problem { return crossEntropyProblem(dtype, 24, 128256, 3, false) })
	one(func() problem { return rotaryCacheProblem(dtype, 1, 32, 8, 128, 4096, 3000, CacheOptions{}) })
	one(func() problem { return rotaryCacheProblem(dtype, 32, 32, 8, 128, 320, 255, CacheOptions{}) })

	attention, gateUp, down := []int{4096, 1024, 1024}, []int{14336, 14336}, []int{4096} // rows of weights
	packed := func(rows []int, in int) weight { return weight{rows, in, quant.NF4, 64, true} }
	one(func() problem { return dequantizeProblem(t, packed(attention, 4096), dtype, 1, 64, 16, 16, 16) })
	one(func() problem { return dequantizeProblem(t, packed(gateUp, 1024), dtype, 0, 64, 16, 16) })
	for _, c := range []productCase{
		{packed(attention, 4096), 1, 48, ThenNothing, true, false}, {packed(attention, 4096), 7, 0, ThenNothing, false, false},
		{packed(gateUp, 4096), 1, 0, ThenSwiGLU, true, false}, {packed(gateUp, 1024), 32, 32, ThenSwiGLU, false, false},
		{packed(down, 14336), 1, 16, ThenAdd, false, false}, {packed(down, 14336), 32, 16, ThenAdd, false, false},
	} {
		one(func() problem { return productProblem(t, c, dtype) })
	}
	for _, transposed := range []bool{false, true} {
		one(func() problem { return float8WeightProblem(t, packed(attention, 4096), transposed, 48) })
		one(func() problem {
			return float8ProductProblem(t, packed([]int{1024, 512}, 1024), dtype, 200, 64, 16, false, transposed)
		})
	}
	one(func() problem {
		return float8ProductProblem(t, packed([]int{512}, 14336), dtype, 16, 64, 16, false, false)
	})
	one(func() problem { return float8NormProblem(2048, 4096, 48, false) })
	one(func() problem { return float8RowsProblem(dtype, 4096, 4160, 4096, 48) })
	return append(all,
		func() []problem {
			return dropped(dtype, 512, 4096, 4096, []int{16, 16, 16}, []float64{0.05, 0.05, 0.05})
		},
		func() []problem { return dropped(dtype, 200, 14336, 14400, []int{16}, []float64{0.1}) },
	)
}

func TestKernelsEqualTheirTwinsOnTheGPU(t *testing.T) {
	for _, d := range cuda(t) {
		var all []func() []problem
		for small := range slices.Chunk(problems(t), 16) { // in one program: compiling takes the time
			all = append(all, func() []problem { return small })
		}
		all = append(all, largeProblems(t)...)
		hasFloat8 := Float8(d.Backend) == nil
		host := open(t, "go")
		for i, problems := range all {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				together := slices.DeleteFunc(problems(), func(p problem) bool {
					return p.launch == nil && !p.composite || strings.HasPrefix(p.name, "float8") && !hasFloat8
				})
				if len(together) == 0 {
					return
				}
				for i, got := range runTogether(t, d, together) {
					p := together[i]
					var want [][]float64
					for _, a := range run(t, host, p.twin, p.inputs) {
						want = append(want, wideFloats(a.floats))
					}
					requireClose(t, p, got, want, toTwin)
					requireClose(t, p, got, p.want, toReference)
				}
			})
		}
	}
}

// runTogether runs the problems' operations in one program and returns the results of each.
func runTogether(t *testing.T, d *backend.Device, problems []problem) (results [][]array) {
	t.Helper()
	var inputs []array
	for _, p := range problems {
		inputs = append(inputs, p.inputs...)
	}
	var counts []int // of results
	out := run(t, d, func(in []*Node) (all []*Node) {
		for _, p := range problems {
			n := len(p.inputs)
			own := p.op(in[:n:n]) // some append to their inputs
			in, all, counts = in[n:], append(all, own...), append(counts, len(own))
		}
		return all
	}, inputs)
	for _, n := range counts {
		results, out = append(results, out[:n]), out[n:]
	}
	return results
}

// Whoever changes a kernel must run compile.sh.
func TestCompiledKernelsAreOfTheseSources(t *testing.T) {
	headers, err := filepath.Glob("*.cuh")
	if err != nil {
		t.Fatal(err)
	}
	sources, err := filepath.Glob("*.cu")
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := ptx.ReadDir(".")
	if err != nil || len(compiled) != len(sources) || len(sources) == 0 {
		t.Errorf("%d kernels are compiled, %d are there (error %v)", len(compiled), len(sources), err)
	}
	for _, source := range sources {
		sum := sha256.New()
		for _, file := range append([]string{source}, headers...) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			sum.Write(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")))
		}
		name := strings.TrimSuffix(source, ".cu")
		text, err := ptx.ReadFile(name + ".ptx")
		if err != nil {
			t.Errorf("%s: not compiled: run compile.sh", source)
			continue
		}
		line, _, _ := strings.Cut(string(text), "\n")
		if want := fmt.Sprintf("// %s %s", source, hex.EncodeToString(sum.Sum(nil))); line != want {
			t.Errorf("%s has changed since it was compiled: run compile.sh\n got %s\nwant %s", source, line, want)
		}
		target := "sm_80"
		if strings.HasPrefix(name, "fp8_") {
			target = "sm_89"
		}
		if !strings.Contains(string(text), ".entry loris_"+name+"(") || !strings.Contains(string(text), ".target "+target+"\n") {
			t.Errorf("%s.ptx has no entry loris_%s for %s", name, name, target)
		}
	}
}

func TestMisuseNamesWhatIsWrong(t *testing.T) {
	d := open(t, "go")
	f32 := func(g *Graph, dims ...int) *Node { return Zeros(g, shapes.Make(dtypes.Float32, dims...)) }
	layout := quant.Layout{QuantType: quant.NF4, Blocksize: 64, Shape: []int{4, 64}}
	for want, f := range map[string]func(g *Graph) *Node{
		"pad is 7":       func(g *Graph) *Node { return Gated(SiLU, f32(g, 2, 8), 7) },
		"9 columns":      func(g *Graph) *Node { return Gated(SiLU, f32(g, 2, 9), 0) },
		"want a matrix":  func(g *Graph) *Node { return Gated(SiLU, f32(g, 2, 3, 8), 0) },
		"gain has shape": func(g *Graph) *Node { h, _, _ := RMSNorm(f32(g, 2, 8), f32(g, 4), nil, 0, 1e-5, false); return h },
		"xa has 16 columns": func(g *Graph) *Node {
			h, _, _ := RMSNorm(f32(g, 2, 8), f32(g, 8), f32(g, 2, 16), 8, 1e-5, false)
			return h
		},
		"rstd has shape": func(g *Graph) *Node {
			return RMSNormBackward(f32(g, 2, 8), f32(g, 2, 1), f32(g, 8), f32(g, 2, 8), nil, 0, false)
		},
		"dres has shape": func(g *Graph) *Node {
			return RMSNormBackward(f32(g, 2, 8), f32(g, 2), f32(g, 8), f32(g, 2, 8), f32(g, 2, 4), 0, false)
		},
		"low has shape": func(g *Graph) *Node {
			x, _, _, _ := GatedBackward(SiLU, f32(g, 2, 8), f32(g, 2, 4), f32(g, 8, 3), f32(g, 2, 3), f32(g, 2, 3), 0, nil)
			return x
		},
		"cos has shape": func(g *Graph) *Node {
			x := f32(g, 2, 3, 1, 4)
			return RoPEBackward(x, x, x, f32(g, 3, 3, 2), f32(g, 2, 3, 2), 0)
		},
		"labels has shape": func(g *Graph) *Node {
			loss, _, _, _ := CrossEntropy(f32(g, 2, 8), f32(g, 2), -100, false)
			return loss
		},
		"3 inputs": func(g *Graph) *Node { x := f32(g, 4); return DequantizeRows(layout, dtypes.Float32, nil, 0, x, x, x) },
		"factor 0 stands next to rows 1 to 6 of a weight of": func(g *Graph) *Node {
			x := f32(g, 4)
			return DequantizeColumns(layout, dtypes.Float32, []Factor{{f32(g, 5, 8), 1, 1}}, 8, x, x)
		},
		"factors of rank 9 altogether in room for 8": func(g *Graph) *Node {
			x := f32(g, 4)
			return DequantizeRows(layout, dtypes.Float32, []Factor{{X: f32(g, 9, 64)}}, 8, x, x)
		},
		"dy has 8 columns, want 11": func(g *Graph) *Node {
			return GradientsOfFactors(f32(g, 2, 8), f32(g, 2, 3), []Factor{{X: f32(g, 8, 3), Scale: 1}}, 8, nil, true).P
		},
		"has shape [4 64 2],": func(g *Graph) *Node {
			return DequantizeRows(quant.Layout{Shape: []int{4, 64, 2}}, dtypes.Float32, nil, 0, f32(g, 4))
		},
	} {
		if _, err := CallOnceN(d.Backend, func(x *Node) []*Node { return []*Node{f(x.Graph())} }, float32(0)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
}
