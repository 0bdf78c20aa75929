package quant

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
)

func nodeOf(l Layout, dtype dtypes.DType) func([]*Node) *Node {
	return func(in []*Node) *Node { return l.DequantizeNode(dtype, in...) }
}

// results runs f on args and returns the bytes of what it returns.
func results(t testing.TB, d *backend.Device, f func(in []*Node) []*Node, args ...any) (out [][]byte) {
	t.Helper()
	e, err := NewExec(d.Backend, f)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Finalize()
	outputs, err := e.Call(args...)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range outputs {
		if err := o.ConstBytes(func(raw []byte) { out = append(out, bytes.Clone(raw)) }); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func upload4(t testing.TB, d *backend.Device, x []float32, dtype dtypes.DType, shape ...int) *tensors.Tensor {
	t.Helper()
	x4, err := d.Upload(shapes.Make(dtype, shape...), narrow(x, dtype))
	if err != nil {
		t.Fatal(err)
	}
	return x4
}

func TestGraphQuantizesToTheHostsBytes(t *testing.T) {
	type weight struct {
		kind      string
		shape     []int
		scale     float64
		dtype     dtypes.DType
		blocksize int
	}
	for _, d := range devices(t) {
		for i, w := range []weight{
			{"normal", []int{64, 64}, 0.02, dtypes.Float32, 64}, {"normal", []int{33, 65}, 1, dtypes.BFloat16, 64},
			{"outliers", []int{7, 129}, 0.05, dtypes.Float16, 32}, {"zeroblocks", []int{40, 64}, 0.1, dtypes.BFloat16, 64},
			{"zeros", []int{5, 27}, 1, dtypes.Float32, 64}, {"boundaries", []int{64, 63}, 0.5, dtypes.Float32, 64},
			{"boundaries", []int{100, 64}, 0.25, dtypes.Float32, 128}, {"signs", []int{3, 5}, 3, dtypes.Float32, 4096},
			{"grid", []int{16, 100}, 0.25, dtypes.Float16, 256}, {"normal", []int{1, 1}, 1, dtypes.Float32, 64},
			{"normal", []int{2, 3, 700}, 1e-4, dtypes.Float32, 512}, {"normal", []int{3000}, 1, dtypes.BFloat16, 1024},
			{"uniform", []int{3, 2048}, 2, dtypes.Float32, 2048},
		} {
			for _, qt := range []QuantType{NF4, FP4} {
				n, err := size(w.shape)
				if err != nil {
					t.Fatal(err)
				}
				x := generate(w.kind, uint64(i)+2, n, w.scale)
				packed, state, err := Quantize4BitRaw(narrow(x, w.dtype), w.dtype, w.shape, qt, w.blocksize, false)
				if err != nil {
					t.Fatal(err)
				}
				p, err := NewPacked(packed, state)
				if err != nil {
					t.Fatal(err)
				}
				got := results(t, d, func(in []*Node) []*Node {
					codes, absmax, bad := Quantize4BitNode(in[0], qt, w.blocksize)
					return []*Node{codes, absmax, bad}
				}, upload4(t, d, x, w.dtype, w.shape...))
				if diff := differing(got[0], p.Codes); diff != 0 {
					t.Errorf("%s %v %s: %d of %d bytes of codes differ", d.Kind, w, qt, diff, len(p.Codes))
				}
				if diff := differing(got[1], floatBytes(p.Absmax)); diff != 0 {
					t.Errorf("%s %v %s: %d of %d bytes of absmax differ: %v, want %v", d.Kind, w, qt, diff, 4*len(p.Absmax), floats(t, got[1]), p.Absmax)
				}
				if got[2][0] != byte(n) || got[2][1] != byte(n>>8) {
					t.Errorf("%s %v %s: first bad value is %v, want %d for none", d.Kind, w, qt, got[2], n)
				}
			}
		}
	}
}

func TestGraphQuantizationTellsTheFirstBadValue(t *testing.T) {
	for _, d := range devices(t) {
		x := make([]float32, 700)
		x[650], x[333] = float32(math.NaN()), float32(math.Inf(-1))
		got := results(t, d, func(in []*Node) []*Node {
			_, _, bad := Quantize4BitNode(in[0], NF4, 64)
			return []*Node{bad}
		}, upload4(t, d, x, dtypes.Float32, 70, 10))
		if want := []byte{333 & 255, 333 >> 8, 0, 0, 0, 0, 0, 0}; !bytes.Equal(got[0], want) {
			t.Errorf("%s: first bad value %v, want %v", d.Kind, got[0], want)
		}
	}
}

func TestAbsmaxOfTheDeviceNestsAsTheHosts(t *testing.T) {
	x := generate("normal", 3, 64*1000, 0.02)
	_, state, err := Quantize4Bit(x, NF4, 64, true)
	if err != nil {
		t.Fatal(err)
	}
	_, plain, err := Quantize4Bit(x, NF4, 64, false)
	if err != nil {
		t.Fatal(err)
	}
	nested, err := QuantizeAbsmax(plain.Absmax)
	if err != nil || !slices.Equal(nested.Codes, state.Nested.Codes) || nested.Offset != state.Nested.Offset {
		t.Errorf("error %v or other codes", err)
	}
	for _, bad := range [][]float32{nil, {1, float32(math.Inf(1))}} {
		if _, err := QuantizeAbsmax(bad); err == nil {
			t.Errorf("%v was quantized", bad)
		}
	}
}

func TestGraphQuantizesBlockwiseToTheHostsBytes(t *testing.T) {
	for _, d := range devices(t) {
		for i, c := range []struct {
			kind      string
			n         int
			scale     float64
			signed    bool
			blocksize int
		}{
			{"normal", 256 * 40, 0.02, true, 256}, {"positive", 256*17 + 3, 1e-6, false, 256}, {"zeroblocks", 5000, 1, true, 64},
			{"outliers", 4097, 30, true, 4096}, {"uniform", 100, 2, true, 256}, {"positive", 256 * 3, 1e-12, false, 256}, {"zeros", 300, 1, false, 256},
		} {
			numbers := DynamicMap(c.signed)
			x := generate(c.kind, uint64(i), c.n, c.scale)
			codes, absmax, err := QuantizeBlockwise(x, numbers, c.blocksize)
			if err != nil {
				t.Fatal(err)
			}
			values, err := DequantizeBlockwise(codes, absmax, numbers, c.blocksize)
			if err != nil {
				t.Fatal(err)
			}
			got := results(t, d, func(in []*Node) []*Node {
				q, a := QuantizeBlockwiseNode(in[0], numbers, c.blocksize, ByTable)
				return []*Node{q, a, DequantizeBlockwiseNode(q, a, numbers, c.blocksize)}
			}, upload4(t, d, x, dtypes.Float32, c.n))
			for k, want := range [][]byte{codes, floatBytes(absmax), floatBytes(values)} {
				if diff := differing(got[k], want); diff != 0 {
					t.Errorf("%s %v: result %d differs in %d of %d bytes", d.Kind, c, k, diff, len(want))
				}
			}
		}
	}
}

// What bitsandbytes' CUDA kernels look for, told value by value: the nearest number, and the sign of a negative value.
func TestNearestSearchFindsTheNearestNumber(t *testing.T) {
	const blocksize = 256
	for _, d := range devices(t) {
		for _, signed := range []bool{true, false} {
			numbers := DynamicMap(signed)
			x := generate(map[bool]string{true: "normal", false: "positive"}[signed], 9, 40*blocksize+5, 1)
			for i := range x {
				x[i] *= float32(math.Pow10(-i % 9))
			}
			got := results(t, d, func(in []*Node) []*Node {
				q, a := QuantizeBlockwiseNode(in[0], numbers, blocksize, Nearest)
				return []*Node{q, a}
			}, upload4(t, d, x, dtypes.Float32, len(x)))
			absmax := floats(t, got[1])
			kept := 0
			for i, code := range got[0] {
				s := float64(x[i] * (1 / absmax[i/blocksize]))
				best := 0
				for k, v := range numbers {
					if math.Abs(float64(v)-s) < math.Abs(float64(numbers[best])-s) {
						best = k
					}
				}
				if numbers[best] == 0 && s < 0 {
					best--
					kept++
				}
				if int(code) != best && math.Abs(math.Abs(float64(numbers[code])-s)-math.Abs(float64(numbers[best])-s)) > 1e-9 {
					t.Fatalf("%s signed %v: value %d, %v of absmax, has code %d, want %d", d.Kind, signed, i, s, code, best)
				}
			}
			if signed && kept < 10 {
				t.Errorf("only %d negative values were near 0", kept)
			}
		}
	}
}

func BenchmarkQuantize4BitNode(b *testing.B) {
	x := generate("normal", 1, 1<<22, 0.02)
	for _, d := range devices(b) {
		b.Run(fmt.Sprint(d.Kind), func(b *testing.B) {
			e, err := NewExec(d.Backend, func(in []*Node) []*Node {
				codes, absmax, bad := Quantize4BitNode(in[0], NF4, 64)
				return []*Node{codes, absmax, bad}
			})
			if err != nil {
				b.Fatal(err)
			}
			arg := upload4(b, d, x, dtypes.Float32, len(x))
			b.SetBytes(int64(4 * len(x)))
			for b.Loop() {
				out, err := e.Call(arg)
				if err != nil {
					b.Fatal(err)
				}
				if err := backend.Free(out...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
