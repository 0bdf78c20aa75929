package quant

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	formats "github.com/loris-ml/loris/internal/safetensors/floats"
)

// devices are the Go backend and, where its plugin is at hand, XLA on the CPU.
func devices(t testing.TB) []*backend.Device {
	t.Helper()
	specs := append([]string{"go"}, strings.Fields(os.Getenv("LORIS_TEST_BACKENDS"))...)
	var out []*backend.Device
	for _, spec := range specs {
		d, err := backend.Open(spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		out = append(out, d)
	}
	return out
}

// upload puts the inputs of p on the device.
func upload(t testing.TB, d *backend.Device, p *Packed) (args []any) {
	t.Helper()
	for _, in := range p.Inputs() {
		x, err := d.Upload(in.Shape, in.Raw)
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, x)
	}
	return args
}

// call runs f on args and returns its result's values in float32.
func call(d *backend.Device, f func(inputs []*Node) *Node, args ...any) ([]float32, error) {
	e, err := NewExec(d.Backend, f)
	if err != nil {
		return nil, err
	}
	defer e.Finalize()
	out, err := e.Call(args...)
	if err != nil {
		return nil, err
	}
	values := make([]float32, out[0].Size())
	name := map[dtypes.DType]string{dtypes.Float32: "F32", dtypes.BFloat16: "BF16", dtypes.Float16: "F16"}[out[0].DType()]
	if byteErr := out[0].ConstBytes(func(raw []byte) { err = formats.Decode(values, name, raw) }); byteErr != nil {
		return nil, byteErr
	}
	return values, err
}

// sameBits returns the index of the first difference, -0 and 0 being different, and -1 if there is none.
func sameBits(a, b []float32) int {
	if len(a) != len(b) {
		return min(len(a), len(b))
	}
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
			return i
		}
	}
	return -1
}

func TestGraphDecodesToTheHostsBits(t *testing.T) {
	type weight struct {
		shape     []int
		blocksize int
	}
	weights := []weight{
		{[]int{64, 64}, 64}, {[]int{32, 96}, 64}, {[]int{3, 64}, 64}, {[]int{5, 7}, 64}, {[]int{1, 1}, 64}, {[]int{33, 65}, 32},
		{[]int{129, 100}, 128}, {[]int{2, 4096}, 4096}, {[]int{300, 257}, 64}, {[]int{512, 320}, 64}, {[]int{4, 8, 32}, 64}, {[]int{4097}, 1024},
	}
	outputs := []dtypes.DType{dtypes.Float32, dtypes.BFloat16, dtypes.Float16}
	for _, d := range devices(t) {
		for i, w := range weights {
			for _, qt := range []QuantType{NF4, FP4} {
				p := pack(t, uint64(i), w.shape, 0.7, qt, w.blocksize, (i%2 == 0) == (qt == NF4))
				args := upload(t, d, p)
				for _, dtype := range outputs {
					got, err := call(d, func(in []*Node) *Node { return p.DequantizeNode(dtype, in...) }, args...)
					if err != nil {
						t.Errorf("%s %v %s: %v", d.Kind, w, qt, err)
						continue
					}
					want := decode(t, p, dtype)
					if at := sameBits(got, want); at >= 0 {
						t.Errorf("%s %v %s %s: value %d of %d is %v, want %v", d.Kind, w, qt, dtype, at, len(want), got[at], want[at])
					}
				}
			}
		}
	}
}

func TestGraphDecodesConcatenatedWeights(t *testing.T) {
	for _, d := range devices(t) {
		for _, rows := range [][]int{{256, 128, 128}, {96, 32, 32}, {3, 5, 7}, {64, 33}} {
			var members []*Packed
			for i, r := range rows {
				members = append(members, pack(t, uint64(i), []int{r, 576}, math.Pow(3, float64(i)), NF4, 64, true))
			}
			p, err := Concat(members...)
			if err != nil {
				t.Fatal(err)
			}
			got, err := call(d, func(in []*Node) *Node { return p.DequantizeNode(dtypes.BFloat16, in...) }, upload(t, d, p)...)
			if err != nil {
				t.Fatal(err)
			}
			if at := sameBits(got, decode(t, p, dtypes.BFloat16)); at >= 0 {
				t.Errorf("%s %v: value %d differs", d.Kind, rows, at)
			}
		}
	}
}

// The product is rounded before the sum: a fused multiply-add gives other bits for many of these scales.
func TestAbsmaxNodeRoundsTwice(t *testing.T) {
	absmax := generate("positive", 3, 256*200+77, 0.4)
	nested, err := newNestedState(absmax)
	if err != nil {
		t.Fatal(err)
	}
	want := nested.decode()
	fused := 0
	for b, code := range nested.Codes {
		if float32(math.FMA(float64(nested.Code[code]), float64(nested.Absmax[b/256]), float64(nested.Offset))) != want[b] {
			fused++
		}
	}
	if fused < 1000 {
		t.Fatalf("only %d scales tell a fused multiply-add", fused)
	}
	for _, d := range devices(t) {
		for _, offset := range []*tensors.Tensor{
			tensors.FromScalar(nested.Offset),
			tensors.FromValue(slices.Repeat([]float32{nested.Offset}, len(nested.Absmax))),
		} {
			got, err := call(d, func(in []*Node) *Node { return AbsmaxNode(in[0], in[1], in[2], 256) },
				tensors.FromValue(nested.Codes), tensors.FromValue(nested.Absmax), offset)
			if err != nil {
				t.Fatal(err)
			}
			if at := sameBits(got, want); at >= 0 {
				t.Errorf("%s, offset %s: scale %d is %v, want %v", d.Kind, offset.Shape(), at, got[at], want[at])
			}
		}
	}
}

// x·Wᵀ has the gradient dy·W for x, through a weight that is decoded in the same program.
func TestGradientPassesAFrozenWeight(t *testing.T) {
	p := pack(t, 4, []int{48, 96}, 1, NF4, 64, true)
	w := decode(t, p, dtypes.Float32)
	x := generate("normal", 8, 5*96, 1)
	want := make([]float32, len(x)) // of sum(x·Wᵀ): the column sums of W
	for r := range 5 {
		for c := range 96 {
			sum := 0.
			for o := range 48 {
				sum += float64(w[o*96+c])
			}
			want[r*96+c] = float32(sum)
		}
	}
	for _, d := range devices(t) {
		got, err := call(d, func(in []*Node) *Node {
			y := DotGeneral(in[0], []int{1}, nil, p.DequantizeNode(dtypes.Float32, in[1:]...), []int{1}, nil)
			return Gradient(ReduceAllSum(y), in[0])[0]
		}, append([]any{tensors.FromFlatDataAndDimensions(x, 5, 96)}, upload(t, d, p)...)...)
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if math.Abs(float64(got[i]-want[i])) > 1e-4 {
				t.Fatalf("%s: gradient %d is %v, want %v", d.Kind, i, got[i], want[i])
			}
		}
	}
}

func TestGraphFunctionsNameInputsThatDoNotFit(t *testing.T) {
	d := devices(t)[0]
	u8 := func(n int) *tensors.Tensor { return tensors.FromValue(make([]uint8, n)) }
	f32 := func(n int) *tensors.Tensor { return tensors.FromValue(make([]float32, n)) }
	shape := shapes.Make(dtypes.Float32, 3, 64)
	flat := func(in []*Node) *Node { return DequantizeNode(in[0], in[1], NF4, 64, shape) }
	nested := func(in []*Node) *Node { return AbsmaxNode(in[0], in[1], in[2], 256) }
	layout := Layout{QuantType: NF4, Blocksize: 64, Shape: []int{3, 64}, NestedBlocksize: 256}
	for want, c := range map[string]struct {
		f    func([]*Node) *Node
		args []any
	}{
		"codes have shape (Uint8)[95], want (Uint8)[96]":              {flat, []any{u8(95), f32(3)}},
		"codes have shape (Float32)[96], want (Uint8)[96]":            {flat, []any{f32(96), f32(3)}},
		"absmax have shape (Float32)[2], want (Float32)[3]":           {flat, []any{u8(96), f32(2)}},
		"nested absmax have shape (Float32)[1], want (Float32)[2]":    {nested, []any{u8(257), f32(1), f32(2)}},
		"nested offset have shape (Float32)[1], want (Float32)[2]":    {nested, []any{u8(257), f32(2), f32(1)}},
		`quant type "nf5" is unknown`:                                 {func(in []*Node) *Node { return DequantizeNode(in[0], in[1], "nf5", 64, shape) }, []any{u8(96), f32(3)}},
		"2 inputs for a weight of shape [3 64] with nested blocksize": {func(in []*Node) *Node { return layout.DequantizeNode(dtypes.Float32, in...) }, []any{u8(96), f32(3)}},
	} {
		if _, err := call(d, c.f, c.args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func BenchmarkDequantizeNode(b *testing.B) {
	p := pack(b, 1, []int{1024, 4096}, 0.02, NF4, 64, true)
	for _, d := range devices(b) {
		for _, dtype := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16} {
			b.Run(fmt.Sprint(d.Kind, "/", dtype), func(b *testing.B) {
				e, err := NewExec(d.Backend, func(in []*Node) *Node { return p.DequantizeNode(dtype, in...) })
				if err != nil {
					b.Fatal(err)
				}
				args := upload(b, d, p)
				b.SetBytes(4 * 1024 * 4096)
				for b.Loop() {
					out, err := e.Call(args...)
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
}
