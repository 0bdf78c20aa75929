package customvjp_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/customvjp"
)

// onBackends runs test on the Go backend, and on XLA's CPU backend where a plugin is at hand.
func onBackends(t *testing.T, test func(t *testing.T, d *backend.Device)) {
	t.Helper()
	for name, spec := range map[string]string{"go": "go:ops_sequential", "xla:cpu": "xla:cpu"} {
		t.Run(name, func(t *testing.T) {
			if name == "xla:cpu" && os.Getenv("PJRT_PLUGIN_LIBRARY_PATH") == "" {
				plugin, err := filepath.Abs("../../.cache/xla/pjrt_c_api_cpu_plugin.so")
				if err == nil {
					_, err = os.Stat(plugin)
				}
				if err != nil {
					t.Skip("no XLA CPU plugin; scripts/fetch-xla-cpu.sh fetches one")
				}
				spec = "xla:" + plugin
			}
			d, err := backend.Open(spec)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			test(t, d)
		})
	}
}

// run executes one program over host values.
func run(t *testing.T, d *backend.Device, program func(in []*graph.Node) []*graph.Node, in ...any) []*tensors.Tensor {
	t.Helper()
	out, err := graph.CallOnceN(d.Backend, program, in...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func floats(t *testing.T, x *tensors.Tensor) []float32 {
	t.Helper()
	v, err := backend.DownloadFloats(x)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func requireClose(t *testing.T, name string, got, want *tensors.Tensor, tolerance float64) {
	t.Helper()
	a, b := floats(t, got), floats(t, want)
	if len(a) != len(b) || len(a) == 0 {
		t.Fatalf("%s: %d values, want %d", name, len(a), len(b))
	}
	var diff, norm float64
	for i := range a {
		diff += (float64(a[i]) - float64(b[i])) * (float64(a[i]) - float64(b[i]))
		norm += float64(b[i]) * float64(b[i])
	}
	if norm == 0 || !(math.Sqrt(diff/norm) <= tolerance) {
		t.Errorf("%s: relative error %.3g (norm %.3g), want at most %g\n got %v\nwant %v", name, math.Sqrt(diff/norm), math.Sqrt(norm), tolerance, a, b)
	}
}

// gate is the region under test: y = a·b + sin(a), z = a/(1+b²), w = a+b.
func gate(a, b *graph.Node) []*graph.Node {
	return []*graph.Node{
		graph.Add(graph.Mul(a, b), graph.Sin(a)),
		graph.Div(a, graph.OnePlus(graph.Square(b))),
		graph.Add(a, b),
	}
}

// gateBackward is gate's gradient by hand.
func gateBackward(ins, outs, d []*graph.Node) []*graph.Node {
	a, b := ins[0], ins[1]
	den := graph.OnePlus(graph.Square(b))
	da := graph.Add(graph.Mul(d[0], graph.Add(b, graph.Cos(a))), graph.Add(graph.Div(d[1], den), d[2]))
	dzdb := graph.Neg(graph.Div(graph.MulScalar(graph.Mul(outs[1], b), 2), den)) // z is at hand: outs are passed in
	db := graph.Add(graph.Mul(d[0], a), graph.Add(graph.Mul(d[1], dzdb), d[2]))
	return []*graph.Node{da, db}
}

func customGate(a, b *graph.Node) []*graph.Node {
	return customvjp.Apply(gate(graph.StopGradient(a), graph.StopGradient(b)), []*graph.Node{a, b}, gateBackward)
}

// total is a scalar of every given node, in float32, that weighs the elements differently.
func total(nodes ...*graph.Node) *graph.Node {
	var sum *graph.Node
	for i, n := range nodes {
		n = graph.ConvertDType(n, dtypes.Float32)
		weights := graph.AddScalar(graph.Sin(graph.Iota(n.Graph(), n.Shape(), n.Rank()-1)), float64(i)+0.5)
		s := graph.ReduceAllSum(graph.Mul(graph.Square(n), weights))
		if sum == nil {
			sum = s
		} else {
			sum = graph.Add(sum, s)
		}
	}
	return sum
}

var (
	aValues = [][]float32{{0.3, -1.2, 2.5}, {0.7, 0.1, -0.4}}
	bValues = [][]float32{{1.1, 0.2, -0.9}, {-2.0, 0.6, 1.7}}
)

func TestGradientsEqualAutodiff(t *testing.T) {
	programs := map[string]func(gate func(a, b *graph.Node) []*graph.Node, a, b *graph.Node) *graph.Node{
		"all outputs": func(gate func(a, b *graph.Node) []*graph.Node, a, b *graph.Node) *graph.Node {
			return total(gate(a, b)...)
		},
		"first output only": func(gate func(a, b *graph.Node) []*graph.Node, a, b *graph.Node) *graph.Node {
			return total(gate(a, b)[0])
		},
		"last output only": func(gate func(a, b *graph.Node) []*graph.Node, a, b *graph.Node) *graph.Node {
			return total(gate(a, b)[2])
		},
		"one output twice": func(gate func(a, b *graph.Node) []*graph.Node, a, b *graph.Node) *graph.Node {
			y := gate(a, b)
			return total(y[1], graph.Exp(graph.MulScalar(y[1], 0.1)))
		},
		"the same node for both inputs": func(gate func(a, b *graph.Node) []*graph.Node, a, b *graph.Node) *graph.Node {
			return graph.Add(total(gate(a, a)...), total(b))
		},
		"twice, one on the other": func(gate func(a, b *graph.Node) []*graph.Node, a, b *graph.Node) *graph.Node {
			y := gate(graph.Tanh(a), b)
			return total(append(gate(y[0], graph.Mul(y[1], b)), y[2])...)
		},
		"inside a checkpointed region": func(gate func(a, b *graph.Node) []*graph.Node, a, b *graph.Node) *graph.Node {
			a = a.Checkpoint()
			y := gate(graph.Exp(graph.MulScalar(a, 0.3)), graph.Cos(graph.Add(a, b)))
			return total(graph.Sin(y[0]).StopCheckpoint(), y[1])
		},
		"inside alias scopes": func(gate func(a, b *graph.Node) []*graph.Node, a, b *graph.Node) *graph.Node {
			a.Graph().PushAliasScope("layer")
			y := gate(a, b)
			a.Graph().PopAliasScope()
			return total(gate(y[0], y[1])...)
		},
		"beside a plain barrier": func(gate func(a, b *graph.Node) []*graph.Node, a, b *graph.Node) *graph.Node {
			plain := graph.OptimizationBarriers(graph.Square(a), b)
			return total(append(gate(plain[0], plain[1]), plain[0])...)
		},
	}
	onBackends(t, func(t *testing.T, d *backend.Device) {
		for name, program := range programs {
			for _, dtype := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16} {
				got := run(t, d, func(in []*graph.Node) []*graph.Node {
					var all []*graph.Node
					for _, region := range []func(a, b *graph.Node) []*graph.Node{customGate, gate} {
						a, b := graph.ConvertDType(in[0], dtype), graph.ConvertDType(in[1], dtype)
						loss := program(region, a, b)
						all = append(all, append(graph.Gradient(loss, a, b), loss)...)
					}
					return all
				}, aValues, bValues)
				tolerance := map[dtypes.DType]float64{dtypes.Float32: 1e-6, dtypes.BFloat16: 4e-2}[dtype]
				for i, what := range []string{"da", "db", "loss"} {
					if got[i].DType() != got[i+3].DType() {
						t.Errorf("%s, %s: %s has dtype %s, want %s", name, dtype, what, got[i].DType(), got[i+3].DType())
					}
					requireClose(t, fmt.Sprintf("%s, %s: %s", name, dtype, what), got[i], got[i+3], tolerance)
				}
			}
		}
	})
}

func TestSavedOutputsReplaceTheForward(t *testing.T) {
	onBackends(t, func(t *testing.T, d *backend.Device) {
		saved := run(t, d, func(in []*graph.Node) []*graph.Node { return gate(in[0], in[1]) }, aValues, bValues)
		sines := 0
		got := run(t, d, func(in []*graph.Node) []*graph.Node {
			outs := customvjp.Apply(in[2:], in[:2], gateBackward)
			grads := graph.Gradient(total(outs...), in[:2]...)
			for _, n := range in[0].Graph().Nodes() { // total weighs each of the three outputs by one more
				if n.Type() == graph.NodeTypeSin {
					sines++
				}
			}
			return append(grads, outs...)
		}, aValues, bValues, saved[0], saved[1], saved[2])
		if sines != 3 {
			t.Errorf("the backward program holds %d sines, want total's 3: the forward must not run again", sines)
		}
		want := run(t, d, func(in []*graph.Node) []*graph.Node {
			outs := gate(in[0], in[1])
			return append(graph.Gradient(total(outs...), in[0], in[1]), outs...)
		}, aValues, bValues)
		for i, name := range []string{"da", "db", "y", "z", "w"} {
			requireClose(t, name, got[i], want[i], 1e-6)
		}
	})
}

func TestForwardOnlyProgramRuns(t *testing.T) {
	onBackends(t, func(t *testing.T, d *backend.Device) {
		got := run(t, d, func(in []*graph.Node) []*graph.Node { return customGate(in[0], in[1])[1:2] }, aValues, bValues)
		want := run(t, d, func(in []*graph.Node) []*graph.Node { return gate(in[0], in[1])[1:2] }, aValues, bValues)
		requireClose(t, "z", got[0], want[0], 1e-6)
	})
}

func TestGradientFlowsToInputsOnly(t *testing.T) {
	onBackends(t, func(t *testing.T, d *backend.Device) {
		got := run(t, d, func(in []*graph.Node) []*graph.Node {
			hidden := graph.Sin(in[1]) // reaches the outputs, and is no input of the region
			outs := customvjp.Apply([]*graph.Node{graph.Mul(graph.StopGradient(in[0]), hidden)}, in[:1],
				func(ins, outs, dOuts []*graph.Node) []*graph.Node { return []*graph.Node{graph.MulScalar(dOuts[0], 3)} })
			return graph.Gradient(graph.ReduceAllSum(outs[0]), in...)
		}, aValues, bValues)
		for i, want := range []float32{3, 0} {
			for _, v := range floats(t, got[i]) {
				if v != want {
					t.Fatalf("gradient %d is %v, want %v everywhere", i, floats(t, got[i]), want)
				}
			}
		}
	})
}

func TestIntegerInputsNeedNoGradient(t *testing.T) {
	onBackends(t, func(t *testing.T, d *backend.Device) {
		got := run(t, d, func(in []*graph.Node) []*graph.Node {
			double := func(x *graph.Node) *graph.Node {
				return graph.Where(graph.Equal(in[1], graph.ScalarZero(x.Graph(), dtypes.Int32)), x, graph.MulScalar(x, 2))
			}
			outs := customvjp.Apply([]*graph.Node{double(graph.StopGradient(in[0]))}, in,
				func(ins, outs, dOuts []*graph.Node) []*graph.Node { return []*graph.Node{double(dOuts[0]), nil} })
			return graph.Gradient(graph.ReduceAllSum(outs[0]), in[0])
		}, []float32{5, 6, 7}, []int32{0, 1, 0})
		if v := floats(t, got[0]); v[0] != 1 || v[1] != 2 || v[2] != 1 {
			t.Errorf("got %v, want [1 2 1]", v)
		}
	})
}

func TestGraphsBuiltInParallelKeepTheirOwnGradients(t *testing.T) {
	onBackends(t, func(t *testing.T, d *backend.Device) {
		var building sync.WaitGroup
		for worker := range 8 {
			building.Go(func() {
				factor := float64(worker + 2)
				for range 5 {
					out, err := graph.CallOnce(d.Backend, func(x *graph.Node) *graph.Node {
						y := x
						for range 3 {
							y = customvjp.Apply([]*graph.Node{graph.Neg(graph.StopGradient(y))}, []*graph.Node{y},
								func(ins, outs, dOuts []*graph.Node) []*graph.Node {
									return []*graph.Node{graph.MulScalar(dOuts[0], factor)}
								})[0]
						}
						return graph.Gradient(graph.ReduceAllSum(y), x)[0]
					}, []float32{1, 2})
					if err != nil {
						t.Error(err)
						return
					}
					got, err := tensors.CopyFlatData[float32](out)
					if want := float32(factor * factor * factor); err != nil || got[0] != want || got[1] != want {
						t.Errorf("worker %d: got %v (error %v), want %v", worker, got, err, want)
					}
				}
			})
		}
		building.Wait()
	})
}

func TestMisuseIsNamed(t *testing.T) {
	d, err := backend.Open("go:ops_sequential")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	first := func(n ...*graph.Node) customvjp.Backward {
		return func(ins, outs, dOuts []*graph.Node) []*graph.Node { return n }
	}
	for want, program := range map[string]func(x *graph.Node) *graph.Node{
		"1 outputs, 0 inputs": func(x *graph.Node) *graph.Node {
			return customvjp.Apply([]*graph.Node{x}, nil, first())[0]
		},
		"backward function given: false": func(x *graph.Node) *graph.Node {
			return customvjp.Apply([]*graph.Node{x}, []*graph.Node{x}, nil)[0]
		},
		"returned 0 gradients for 1 inputs": func(x *graph.Node) *graph.Node {
			return graph.Gradient(graph.ReduceAllSum(customvjp.Apply([]*graph.Node{x}, []*graph.Node{x}, first())[0]), x)[0]
		},
		"of shape (Float32) for input 0 of shape (Float32)[2]": func(x *graph.Node) *graph.Node {
			return graph.Gradient(graph.ReduceAllSum(customvjp.Apply([]*graph.Node{x}, []*graph.Node{x}, first(graph.ReduceAllSum(x)))[0]), x)[0]
		},
	} {
		if _, err := graph.CallOnce(d.Backend, program, []float32{1, 2}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
}
