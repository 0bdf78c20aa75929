//go:build cgo

package seam

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

type Node = graph.Node

func call(t testing.TB, b compute.Backend, f func(in []*Node) []*Node, in ...any) []*tensors.Tensor {
	t.Helper()
	out, err := graph.CallOnceN(b, f, in...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// binaryOp is an operation of StableHLO on two values of a shape.
func binaryOp(op string, x, y *Node, out shapes.Shape, attributes string) *Node {
	in := TensorTypes([]shapes.Shape{x.Shape(), y.Shape()})
	body := Body(fmt.Sprintf("    %%r = %q(%%a0, %%a1)%s : (%s) -> %s\n", op, attributes, in, TensorType(out)) + Return([]string{"%r"}, []shapes.Shape{out}))
	return Call(body, []shapes.Shape{out}, x, y)[0]
}

func TestOperationsEqualPlainOnes(t *testing.T) {
	_, b := cpu(t)
	for _, dtype := range []dtypes.DType{dtypes.Float32, dtypes.Float64, dtypes.BFloat16, dtypes.Float16, dtypes.Int32, dtypes.Uint8, dtypes.Int64} {
		for _, dims := range [][]int{{}, {1}, {3, 5}, {2, 1, 7}, {0, 3}} {
			out := call(t, b, func(in []*Node) []*Node {
				g := in[0].Graph()
				s := shapes.Make(dtype, dims...)
				var x *Node
				if s.IsScalar() {
					x = graph.ConvertDType(in[0], dtype)
				} else {
					x = graph.AddScalar(graph.Iota(g, s, s.Rank()-1), 2)
				}
				less := binaryOp("stablehlo.compare", x, graph.Mul(x, x), shapes.Make(dtypes.Bool, dims...), " {comparison_direction = #stablehlo<comparison_direction LT>}")
				sum := binaryOp("stablehlo.add", x, x, s, "")
				twice := binaryOp("stablehlo.add", sum, x, s, "") // the same function again
				return []*Node{twice, less, graph.Add(graph.Add(x, x), x), graph.LessThan(x, graph.Mul(x, x))}
			}, float32(3))
			for i := range 2 {
				if !out[i].Equal(out[i+2]) || !out[i].Shape().Equal(out[i+2].Shape()) {
					t.Errorf("%s%v, result %d: got %v, want %v", dtype, dims, i, out[i], out[i+2])
				}
			}
		}
	}
}

func TestOperationsWithSeveralResultsAndUses(t *testing.T) {
	_, b := cpu(t)
	out := call(t, b, func(in []*Node) []*Node {
		s := []shapes.Shape{in[0].Shape(), in[0].Shape()}
		body := Body(fmt.Sprintf("    %%s = \"stablehlo.sine\"(%%a0) : (%[1]s) -> %[1]s\n    %%c = \"stablehlo.cosine\"(%%a0) : (%[1]s) -> %[1]s\n", TensorType(s[0])) + Return([]string{"%s", "%c"}, s))
		x := in[0]
		for range 3 {
			r := Call(body, s, x)
			x = graph.Add(graph.Square(r[0]), graph.Mul(r[1], x))
		}
		y := in[0]
		for range 3 {
			y = graph.Add(graph.Square(graph.Sin(y)), graph.Mul(graph.Cos(y), y))
		}
		return []*Node{x, y, graph.ReduceAllSum(x)}
	}, []float32{0.1, -2, 3})
	if !out[0].InDelta(out[1], 1e-6) {
		t.Errorf("got %v, want %v", out[0], out[1])
	}
}

// Inside While the operation is called from a closure.
func TestOperationsRunInsideLoops(t *testing.T) {
	_, b := cpu(t)
	out := call(t, b, func(in []*Node) []*Node {
		g := in[0].Graph()
		cond := graph.NewClosure(g, func(g *graph.Graph) []*Node {
			i := graph.Parameter(g, "i", shapes.Make(dtypes.Int32))
			graph.Parameter(g, "x", in[0].Shape())
			return []*Node{graph.LessThan(i, graph.Const(g, int32(5)))}
		})
		body := graph.NewClosure(g, func(g *graph.Graph) []*Node {
			i := graph.Parameter(g, "i", shapes.Make(dtypes.Int32))
			x := graph.Parameter(g, "x", in[0].Shape())
			return []*Node{graph.Add(i, graph.Const(g, int32(1))), binaryOp("stablehlo.add", x, x, x.Shape(), "")}
		})
		return graph.While(cond, body, graph.Const(g, int32(0)), in[0])[1:]
	}, []float32{1, -0.5})
	if got := out[0].Value().([]float32); !slices.Equal(got, []float32{32, -16}) {
		t.Errorf("got %v, want [32 -16]", got)
	}
}

func TestMisuseOfCallIsAnError(t *testing.T) {
	_, b := cpu(t)
	for want, f := range map[string]func(x *Node) *Node{
		"at least one input and one": func(x *Node) *Node { return Call("", nil, x)[0] },
		"dtype Complex64":            func(x *Node) *Node { return Call("", []shapes.Shape{shapes.Make(dtypes.Complex64)}, x)[0] },
		"failed to compile":          func(x *Node) *Node { return Call("    nonsense", []shapes.Shape{x.Shape()}, x)[0] },
		"No such compile option: 'xla_no_such_option'": func(x *Node) *Node {
			Configure(x.Graph(), &Program{Options: map[string]string{"xla_no_such_option": "1"}})
			return x
		},
		"the program has 1": func(x *Node) *Node {
			Configure(x.Graph(), &Program{Donate: []int{1}})
			return x
		},
		"must return its inputs": func(x *Node) *Node {
			Configure(x.Graph(), &Program{CopyTo: "device"})
			return graph.Neg(x)
		},
	} {
		if _, err := graph.CallOnce(b, f, []float32{1}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
}

func TestOptionsReachTheCompiler(t *testing.T) {
	_, b := cpu(t)
	for value, ok := range map[string]bool{"true": true, "False": true, "maybe": false} {
		_, err := graph.CallOnce(b, func(x *Node) *Node {
			Configure(x.Graph(), &Program{Options: map[string]string{"xla_cpu_enable_fast_math": value, "xla_backend_optimization_level": "1"}})
			return graph.Sin(x)
		}, []float32{1})
		if (err == nil) != ok {
			t.Errorf("xla_cpu_enable_fast_math=%s: error %v", value, err)
		}
	}
}

func TestDonatedTensorsAreUsedUp(t *testing.T) {
	_, b := cpu(t)
	step, err := graph.NewExec(b, func(x, y *Node) []*Node {
		Configure(x.Graph(), &Program{Donate: []int{0}})
		return []*Node{graph.Add(x, y)}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer step.Finalize()
	x, y := tensors.FromValue([]float32{1, 2, 3}), tensors.FromValue([]float32{1, 1, 1})
	for range 10 {
		donated, err := graph.DonateTensorBuffer(x, b, 0)
		if err != nil {
			t.Fatal(err)
		}
		out, err := step.Call(donated, y)
		if err != nil {
			t.Fatal(err)
		}
		x = out[0]
	}
	kept, err := step.Call(x, y) // not donated: it must still be there
	if err != nil {
		t.Fatal(err)
	}
	if got, want := kept[0].Value().([]float32), []float32{12, 13, 14}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := x.Value().([]float32), []float32{11, 12, 13}; !slices.Equal(got, want) {
		t.Errorf("an input that was not donated is %v, want %v", got, want)
	}
}

func TestCopiesToOtherMemories(t *testing.T) {
	p, b := cpu(t)
	copyTo := func(kind string) *graph.Exec {
		e, err := graph.NewExec(b, func(x, y *Node) []*Node {
			Configure(x.Graph(), &Program{CopyTo: kind})
			return []*Node{graph.Identity(x), y}
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.Finalize)
		return e
	}
	out, back := copyTo("pinned_host"), copyTo("device")
	for _, depth := range []int{0, 4} {
		if err := p.SetDepth(depth); err != nil {
			t.Fatal(err)
		}
		values := make([]float32, 1000)
		for i := range values {
			values[i] = float32(i * depth)
		}
		x := call(t, b, func(in []*Node) []*Node { return []*Node{graph.Neg(in[0]), graph.OnePlus(in[0])} }, values)
		for range 20 {
			for _, e := range []*graph.Exec{out, back} {
				var err error
				if x, err = e.Call(x[0], x[1]); err != nil {
					t.Fatal(err)
				}
			}
		}
		for i, v := range x[0].Value().([]float32) {
			if v != -values[i] || x[1].Value().([]float32)[i] != values[i]+1 {
				t.Fatalf("depth %d: value %d is %v and %v", depth, i, v, x[1].Value().([]float32)[i])
			}
		}
		if err := p.Sync(); err != nil || p.Pending() != 0 {
			t.Errorf("error %v, %d pending", err, p.Pending())
		}
	}
	if _, err := copyTo("moon").Call([]float32{1}, []float32{1}); err == nil || !strings.Contains(err.Error(), `no memory of kind "moon"; it has`) {
		t.Errorf("got error %v", err)
	}
}

func TestDepthDoesNotChangeResults(t *testing.T) {
	p, b := cpu(t)
	step, err := graph.NewExec(b, func(x *Node) *Node {
		return graph.Sin(graph.Add(axpb("", x, graph.Cos(x)), graph.MatMul(x, x)))
	})
	if err != nil {
		t.Fatal(err)
	}
	defer step.Finalize()
	var want []float32
	for _, depth := range []int{0, 1, 16, 256} {
		if err := p.SetDepth(depth); err != nil {
			t.Fatal(err)
		}
		x := tensors.FromValue([][]float32{{0.1, 0.2, -0.3}, {1, 0, 0.5}, {-0.7, 0.25, 2}})
		start := time.Now()
		for i := range 1000 {
			y, err := step.Call(x)
			if err != nil {
				t.Fatal(err)
			}
			if n := p.Pending(); n > depth {
				t.Fatalf("depth %d: %d executions are pending after call %d", depth, n, i)
			}
			if i%100 == 50 {
				if err := p.Limit(3, 0); err != nil || p.Pending() > 3 {
					t.Fatalf("depth %d: error %v, %d executions are pending, want at most 3", depth, err, p.Pending())
				}
			}
			if i > 0 {
				if err := x.FinalizeAll(); err != nil { // while it may still be read
					t.Fatal(err)
				}
			}
			x = y[0]
		}
		t.Logf("depth %d: %v per call", depth, time.Since(start)/1000)
		got, err := tensors.CopyFlatData[float32](x)
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = got
		}
		if !slices.Equal(got, want) {
			t.Errorf("depth %d: got %v, want %v", depth, got, want)
		}
		if err := p.Sync(); err != nil || p.Pending() != 0 {
			t.Errorf("depth %d: error %v, %d pending after Sync", depth, err, p.Pending())
		}
	}
}

// tooLarge is a program that fails when it runs: its result has more bytes than a process can address.
func tooLarge(t testing.TB, b compute.Backend) *graph.Exec {
	e, err := graph.NewExec(b, func(x *Node) *Node {
		return graph.Add(graph.Iota(x.Graph(), shapes.Make(dtypes.Float32, 1<<56), 0), graph.ReduceAllSum(x))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Finalize)
	return e
}

func TestLateErrorsSurface(t *testing.T) {
	p, b := cpu(t)
	failing := tooLarge(t, b)
	fine, err := graph.NewExec(b, graph.OnePlus)
	if err != nil {
		t.Fatal(err)
	}
	defer fine.Finalize()
	if _, err := failing.Call([]float32{1}); err == nil || !strings.Contains(err.Error(), "Out of memory") {
		t.Fatalf("waiting for it: got error %v", err)
	}
	if err := p.SetDepth(1); err != nil {
		t.Fatal(err)
	}
	fail := func() *tensors.Tensor {
		out, err := failing.Call([]float32{1})
		if err != nil {
			t.Fatalf("not waiting for it: got error %v", err)
		}
		return out[0]
	}
	for where, surfaces := range map[string]func(x *tensors.Tensor) error{
		"the next call": func(*tensors.Tensor) error { _, err := fine.Call([]float32{1}); return err },
		"Sync":          func(*tensors.Tensor) error { return p.Sync() },
		"SetDepth":      func(*tensors.Tensor) error { return p.SetDepth(1) },
		"the reading of a value made of it": func(x *tensors.Tensor) error {
			if err := p.SetDepth(3); err != nil {
				return fmt.Errorf("too early: %w", err)
			}
			sum := call(t, b, func(in []*Node) []*Node { return []*Node{graph.ReduceAllMax(in[0])} }, fail())
			_, err := tensors.CopyFlatData[float32](sum[0])
			return errors.Join(err, p.SetDepth(1), p.SetDepth(1))
		},
	} {
		var x *tensors.Tensor
		if !strings.Contains(where, "reading") {
			x = fail()
		}
		err := surfaces(x)
		if err == nil || !strings.Contains(err.Error(), "Out of memory") {
			t.Errorf("%s: got error %v", where, err)
		}
		if where == "the next call" && !strings.Contains(err.Error(), "an earlier asynchronous execution failed: Out of memory") {
			t.Errorf("the next call does not say that it is not to blame: %v", err)
		}
		if err := p.Sync(); err != nil {
			t.Errorf("%s: the error comes twice: %v", where, err)
		}
		out, err := fine.Call([]float32{41})
		if err != nil || out[0].Value().([]float32)[0] != 42 {
			t.Errorf("%s: afterwards got %v, error %v", where, out, err)
		}
	}
}

func TestSeveralGoroutinesAtOnce(t *testing.T) {
	p, b := cpu(t)
	if err := p.SetDepth(3); err != nil {
		t.Fatal(err)
	}
	var workers sync.WaitGroup
	for w := range 6 {
		workers.Go(func() {
			factor := float32(w + 2)
			e, err := graph.NewExec(b, func(x *Node) *Node { return axpb("", x, graph.MulScalar(x, float64(factor))) })
			if err != nil {
				t.Error(err)
				return
			}
			defer e.Finalize()
			for i := range 100 {
				out, err := e.Call([]float32{float32(i), 1})
				if err != nil {
					t.Error(err)
					return
				}
				if i%10 == 0 {
					if got := out[0].Value().([]float32); got[0] != float32(i)*(1+2*factor) || got[1] != 1+2*factor {
						t.Errorf("worker %d: got %v", w, got)
					}
				}
				if i%25 == 0 {
					if err := p.Sync(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	workers.Wait()
}

func TestSharedBuffersAndAsynchronyExclude(t *testing.T) {
	p, _ := cpu(t)
	if err := p.Plugin.SetDepth(2); err != nil {
		t.Fatal(err)
	}
	if _, err := p.NewBackend("shared_buffers=true"); err == nil || !strings.Contains(err.Error(), "asynchronous (depth 2)") {
		t.Errorf("got error %v", err)
	}
	if err := p.SetDepth(257); err == nil || !strings.Contains(err.Error(), "use 0 to 256") {
		t.Errorf("got error %v", err)
	}
	if _, err := p.NewBackend("no_such_option"); err == nil || !strings.Contains(err.Error(), "no_such_option") {
		t.Errorf("got error %v", err)
	}
	if err := p.Plugin.SetDepth(0); err != nil {
		t.Fatal(err)
	}
	other, err := p.NewBackend("shared_buffers=true")
	if err != nil {
		t.Fatal(err)
	}
	its, _ := Of(other)
	for _, set := range []func(int) error{its.SetDepth, p.Plugin.SetDepth} {
		if err := set(1); err == nil || !strings.Contains(err.Error(), "shared_buffers=false") {
			t.Errorf("got error %v", err)
		}
	}
	if err := p.SetDepth(2); err != nil {
		t.Errorf("another backend that shares nothing: %v", err)
	}
	other.Finalize()
	if err := p.Plugin.SetDepth(1); err != nil {
		t.Errorf("nobody shares any more: %v", err)
	}
	if err := p.Plugin.SetDepth(0); err != nil {
		t.Error(err)
	}
}

func TestMemoryThatThePluginDoesNotTellIsAnError(t *testing.T) {
	p, _ := cpu(t)
	for _, device := range []int{0, 99, -1} {
		if _, err := p.Memory(device); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("memory of device %d: ", device)) {
			t.Errorf("got error %v", err)
		}
	}
}

func TestOpenNamesWhatIsWrong(t *testing.T) {
	p, _ := cpu(t)
	notPlugin := filepath.Join(t.TempDir(), "lib.so")
	if err := os.WriteFile(notPlugin, []byte("text"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, path, want string }{
		{"cuda, x", "", "use small letters"},
		{"cpu", "lib.so", "not absolute"},
		{"cpu", "/nowhere/lib.so", "/nowhere/lib.so: no such file"},
		{"cpu", t.TempDir(), "it is a folder"},
		{"cpu", notPlugin, notPlugin + ": "},
		{"nonesuch", "", "no file pjrt_c_api_nonesuch_plugin.so in "},
		{"cuda", p.Path(), "is open in this process as \"cpu\""},
	} {
		if _, err := Open(c.name, c.path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Open(%q, %q): got error %v, want one with %q", c.name, c.path, err, c.want)
		}
	}
	if again, err := Open("cpu", p.Path()); again != p.Plugin || err != nil {
		t.Errorf("opened again: %v, error %v", again, err)
	}
}

func TestProgramsSayWhatMemoryTheyTake(t *testing.T) {
	p, b := cpu(t)
	number := NextNumber()
	if f, ok := p.Footprint(number); ok {
		t.Errorf("a program that is not compiled takes %+v", f)
	}
	call(t, b, func(in []*Node) []*Node {
		Configure(in[0].Graph(), &Program{Number: number})
		return []*Node{graph.Add(in[0], graph.ConstAsDType(in[0].Graph(), dtypes.Float32, 1)), graph.ReduceAllSum(in[1])}
	}, make([]float32, 1000), make([]float64, 500))
	f, ok := p.Footprint(number)
	if !ok || f.Arguments != 8000 || f.Results < 4008 || f.Reused != 0 || f.Temporary < 0 {
		t.Errorf("%+v, %v; want 8000 bytes of arguments and 4008 of results", f, ok)
	}
}
