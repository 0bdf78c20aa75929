package kernels

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
)

// problem is one use of an operation.
type problem struct {
	name   string
	inputs []array
	op     func(in []*Node) []*Node // the operation
	twin   func(in []*Node) []*Node // the same without kernels
	want   [][]float64              // what a float64 recomputation gives
	exact  bool                     // want is meant to the bit
	// precise are the first results that are as exact as the dtype float32, although the inputs have another.
	precise int
	// rounding, if larger than the tolerance, is how far kernel and twin may be apart because one of them rounds on the way.
	rounding float64

	// For what the kernel takes: its launch, the operands when they are not the inputs, and how its results become those of
	// the operation if they are not.
	launch   *launch
	call     func(operands ...*Node) []*Node // nil: launch.call
	operands []array
	finish   func(results []array) []array
	next     func(results []array) (*launch, []array) // a second kernel and its operands; nil: none

	composite bool // of several kernels, without a launch
}

// array is a value on the host: floats are float32 values that the dtype can hold, anything else is raw.
type array struct {
	shape  shapes.Shape
	floats []float32
	bytes  []byte
}

// onDevice are the kernel's operands.
func (p problem) onDevice() []array {
	if p.operands != nil {
		return p.operands
	}
	return p.inputs
}

func floatArray(dtype dtypes.DType, values []float32, dims ...int) array {
	a := array{shape: shapes.Make(dtype, dims...), floats: append([]float32{}, values...)}
	if dtype == dtypes.BFloat16 {
		for i, v := range a.floats {
			a.floats[i] = bf16(v)
		}
	}
	return a
}

// bf16 rounds to nearest even.
func bf16(v float32) float32 {
	b := math.Float32bits(v)
	return math.Float32frombits((b + 0x7fff + b>>16&1) &^ 0xffff)
}

// normal is an array of normally distributed numbers.
func normal(r *rand.Rand, dtype dtypes.DType, deviation float64, dims ...int) array {
	values := make([]float32, shapes.Make(dtype, dims...).Size())
	for i := range values {
		values[i] = float32(r.NormFloat64() * deviation)
	}
	return floatArray(dtype, values, dims...)
}

func (a array) raw() []byte {
	if a.bytes != nil {
		return a.bytes
	}
	var raw []byte
	for _, v := range a.floats {
		if a.shape.DType == dtypes.BFloat16 {
			raw = binary.NativeEndian.AppendUint16(raw, uint16(math.Float32bits(v)>>16))
		} else {
			raw = binary.NativeEndian.AppendUint32(raw, math.Float32bits(v))
		}
	}
	return raw
}

// fromRaw is the reverse of raw, for floats.
func fromRaw(s shapes.Shape, raw []byte) array {
	a := array{shape: s, floats: make([]float32, s.Size())}
	for i := range a.floats {
		if s.DType == dtypes.F8E4M3FN {
			a.floats[i] = float8FromBits(raw[i])
		} else if s.DType == dtypes.BFloat16 {
			a.floats[i] = math.Float32frombits(uint32(binary.NativeEndian.Uint16(raw[2*i:])) << 16)
		} else {
			a.floats[i] = math.Float32frombits(binary.NativeEndian.Uint32(raw[4*i:]))
		}
	}
	return a
}

// at is element [i, j] of a matrix, or i of a vector.
func (a array) at(index ...int) float64 {
	at := 0
	for axis, i := range index {
		at = at*a.shape.Dimensions[axis] + i
	}
	return float64(a.floats[at])
}

// cuda are the devices of LORIS_TEST_BACKENDS that run the kernels ("xla:cuda" or "xla:/path/to/a/cuda/plugin.so").
func cuda(t testing.TB) []*backend.Device {
	t.Helper()
	var all []*backend.Device
	for _, spec := range strings.Fields(os.Getenv("LORIS_TEST_BACKENDS")) {
		if !strings.Contains(spec, "cuda") {
			continue
		}
		d := open(t, spec)
		if !Available(d.Backend) {
			t.Fatalf("%s does not run kernels: the seam is off", spec)
		}
		all = append(all, d)
	}
	if all == nil {
		t.Skip("LORIS_TEST_BACKENDS lists no CUDA backend")
	}
	return all
}

func open(t testing.TB, spec string) *backend.Device {
	t.Helper()
	d, err := backend.Open(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func upload(t testing.TB, d *backend.Device, in []array) []any {
	t.Helper()
	var args []any
	for _, a := range in {
		x, err := d.Upload(a.shape, a.raw())
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, x)
	}
	return args
}

func run(t testing.TB, d *backend.Device, program func(in []*Node) []*Node, in []array) []array {
	t.Helper()
	out, err := CallOnceN(d.Backend, program, upload(t, d, in)...)
	if err != nil {
		t.Fatal(err)
	}
	return download(t, out)
}

func download(t testing.TB, out []*tensors.Tensor) []array {
	t.Helper()
	var all []array
	for _, x := range out {
		if err := x.ConstBytes(func(raw []byte) { all = append(all, fromRaw(x.Shape(), raw)) }); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// difference is ‖a−b‖/‖b‖; equal non-finite values count as equal.
func difference(a []float32, b []float64) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	var diff, norm float64
	for i := range a {
		d := float64(a[i]) - b[i]
		diff += d * d
		norm += b[i] * b[i]
	}
	if diff == 0 {
		return 0
	}
	return math.Sqrt(diff / norm)
}

func wideFloats(a []float32) []float64 {
	w := make([]float64, len(a))
	for i, v := range a {
		w[i] = float64(v)
	}
	return w
}

// requireClose compares the results of an operation, each with its own tolerance for its dtype.
func requireClose(t *testing.T, p problem, got []array, want [][]float64, tolerance map[dtypes.DType]float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d results, want %d", p.name, len(got), len(want))
	}
	for i, g := range got {
		if p.exact {
			for j := range g.floats {
				if len(g.floats) != len(want[i]) || math.Float32bits(g.floats[j]) != math.Float32bits(float32(want[i][j])) {
					t.Fatalf("%s, result %d %s: value %d is %v, want %v", p.name, i, g.shape, j, g.floats[j], want[i][j])
				}
			}
			continue
		}
		limit := max(tolerance[p.inputs[0].shape.DType], p.rounding)
		if i < p.precise {
			limit = max(toReference[dtypes.Float32], p.rounding)
		}
		if d := difference(g.floats, want[i]); !(d <= limit) {
			t.Errorf("%s, result %d %s: relative error %.3g, want at most %g", p.name, i, g.shape, d, limit)
		}
	}
}

// named gives a problem its name.
func (p problem) named(format string, args ...any) problem {
	p.name = fmt.Sprintf(format, args...)
	return p
}
