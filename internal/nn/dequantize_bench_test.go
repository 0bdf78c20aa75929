package nn_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/quant"
)

// frozen is a decoder layer without adapters in one of three forms that compute the same: its weights dense in bfloat16,
// or the NF4 codes that these were decoded from, with single or double quantization.
type frozen struct {
	p       problem
	layout  *nn.Layout
	slots   []*tensors.Tensor
	decoded int // bytes that dequantizing reads and writes in one pass over the layer; 0: dense
}

// freeze quantizes the layer of p; where keep is false, the device gets the decoded weights.
func (p problem) freeze(b *testing.B, d *backend.Device, nested, keep bool) *frozen {
	b.Helper()
	f := &frozen{p: p}
	layout := nn.NewLayout()
	upload := func(s shapes.Shape, raw []byte) {
		t, err := d.Upload(s, raw)
		if err != nil {
			b.Fatal(err)
		}
		f.slots = append(f.slots, t)
	}
	encode := func(values []float32) []byte {
		raw, err := backend.EncodeFloats(dtypes.BFloat16, values)
		if err != nil {
			b.Fatal(err)
		}
		return raw
	}
	for _, n := range []string{"norm1", "norm2"} {
		layout.Norm(nn.Norm{Name: n, Size: p.hidden}, dtypes.BFloat16, false)
		upload(shapes.Make(dtypes.BFloat16, p.hidden), encode(slices.Repeat([]float32{1}, p.hidden)))
	}
	kv := p.hidden / p.heads * p.kvHeads
	for i, g := range [][]nn.Linear{
		{{Name: "q", In: p.hidden, Out: p.hidden}, {Name: "k", In: p.hidden, Out: kv}, {Name: "v", In: p.hidden, Out: kv}},
		{{Name: "o", In: p.hidden, Out: p.hidden}},
		{{Name: "gate", In: p.hidden, Out: p.features}, {Name: "up", In: p.hidden, Out: p.features}},
		{{Name: "down", In: p.features, Out: p.hidden}},
	} {
		out := 0
		for _, l := range g {
			out += l.Out
		}
		packed := randomNF4(b, uint64(i), out, g[0].In, nested)
		if keep {
			var arrays []shapes.Shape
			for _, in := range packed.Inputs() {
				arrays = append(arrays, in.Shape)
				upload(in.Shape, in.Raw)
			}
			layout.Packed(g, packed.Layout, arrays, dtypes.BFloat16)
			f.decoded += packed.Bytes() + 2*out*g[0].In
			continue
		}
		values, err := packed.Dequantize(dtypes.BFloat16)
		if err != nil {
			b.Fatal(err)
		}
		layout.Dense(g, dtypes.BFloat16, false)
		upload(shapes.Make(dtypes.BFloat16, out, g[0].In), encode(values))
	}
	f.layout = layout.Build()
	return f
}

// randomNF4 is a quantized weight [out, in], of values from N(0, 0.02²) that repeat.
func randomNF4(b *testing.B, seed uint64, out, in int, nested bool) *quant.Packed {
	b.Helper()
	const period = 1<<16 + 1 // not a divisor of any dimension
	pattern := reference.Normal(seed, min(period, out*in), 0.02)
	values := slices.Repeat(pattern, out*in/len(pattern)+1)[:out*in]
	codes, state, err := quant.Quantize4Bit(values, quant.NF4, 64, nested)
	if err != nil {
		b.Fatal(err)
	}
	state.Shape = []int{out, in}
	packed, err := quant.NewPacked(codes, state)
	if err != nil {
		b.Fatal(err)
	}
	return packed
}

// program is the layer's forward pass over x, cos, sin and the slots.
func (f *frozen) program(b *testing.B, d *backend.Device) *Exec {
	b.Helper()
	p := f.p
	shape := nn.Shape{
		Hidden: p.hidden, Heads: p.heads, KVHeads: p.kvHeads, HeadDim: p.hidden / p.heads, NormEps: 1e-5,
		Compute: dtypes.BFloat16, Form: nn.FormFused,
	}
	e, err := NewExec(d.Backend, func(in []*Node) *Node {
		l := nn.NewLayer(shape, nn.Batch{Cos: in[1], Sin: in[2]}, nil)
		return (problem{}).block(l.Bind(f.layout, in[3:]), in[0])
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(e.Finalize)
	return e
}

// variant is a compiled layer with its arguments.
type variant struct {
	exec *Exec
	args []any
}

func (v variant) call(b *testing.B) *tensors.Tensor {
	b.Helper()
	out, err := v.exec.Call(v.args...)
	if err != nil {
		b.Fatal(err)
	}
	return out[0]
}

// timed is the time of one of n calls, queued one behind the other.
func (v variant) timed(b *testing.B, d *backend.Device, n int) float64 {
	b.Helper()
	start := time.Now()
	for range n {
		if err := backend.Free(v.call(b)); err != nil {
			b.Fatal(err)
		}
	}
	if err := d.Sync(); err != nil {
		b.Fatal(err)
	}
	return time.Since(start).Seconds() / float64(n)
}

// BenchmarkDequantizeInBlock times a layer's whole forward program with NF4 weights and with the same weights dense, in
// turns; the difference of the two is what dequantizing costs there. An iteration is one such round, and medians over
// the rounds are reported. It takes the shape of Llama-3-8B on CUDA, a small one elsewhere.
//
//	LORIS_TEST_BACKENDS=xla:cuda go test ./internal/nn -run xxx -bench DequantizeInBlock -benchtime 30x
func BenchmarkDequantizeInBlock(b *testing.B) {
	for _, spec := range strings.Fields(os.Getenv("LORIS_TEST_BACKENDS")) {
		batches, calls := []problem{{batch: 1, seq: 32}, {batch: 2, seq: 64}}, 2
		layer := problem{hidden: 256, features: 512, heads: 4, kvHeads: 2}
		if strings.HasPrefix(spec, "xla:cuda") {
			batches, calls = []problem{{batch: 1, seq: 512}, {batch: 2, seq: 2048}}, 20
			layer = problem{hidden: 4096, features: 14336, heads: 32, kvHeads: 8}
		}
		d, err := backend.Open(spec)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { d.Close() })
		for _, s := range batches {
			p := layer
			p.batch, p.seq = s.batch, s.seq
			b.Run(fmt.Sprintf("%s/tokens=%d", spec, p.batch*p.seq), func(b *testing.B) { p.compareForms(b, d, calls) })
		}
	}
	if os.Getenv("LORIS_TEST_BACKENDS") == "" {
		b.Skip("LORIS_TEST_BACKENDS lists no backend")
	}
}

// compareForms reports the times of the three forms and the rates of dequantizing.
func (p problem) compareForms(b *testing.B, d *backend.Device, calls int) {
	forms := []*frozen{p.freeze(b, d, false, false), p.freeze(b, d, false, true), p.freeze(b, d, true, true)}
	names := []string{"dense", "single", "double"}
	common := p.inputs(b, d)
	var variants []variant
	for _, f := range forms {
		v := variant{exec: f.program(b, d)}
		for _, t := range slices.Concat(common, f.slots) {
			v.args = append(v.args, t)
		}
		variants = append(variants, v)
	}
	b.Cleanup(func() {
		for _, f := range forms {
			backend.Free(f.slots...)
		}
		backend.Free(common...)
	})
	var want []float32
	for i, v := range variants {
		y, err := backend.DownloadFloats(v.call(b))
		if err != nil {
			b.Fatal(err)
		}
		if i == 0 {
			want = y
		}
		if limit := []float64{0, 1e-2, 5e-2}[i]; !(reference.RelativeError(y, want) <= limit) { // other scales with double quantization
			b.Fatalf("%s differs from dense by %v", names[i], reference.RelativeError(y, want))
		}
		v.timed(b, d, calls) // warms up
	}
	seconds := make([][]float64, len(forms))
	b.ResetTimer()
	for range b.N {
		for i, v := range variants {
			seconds[i] = append(seconds[i], v.timed(b, d, calls))
		}
	}
	b.StopTimer()
	for i, name := range names {
		b.ReportMetric(median(seconds[i])*1e6, name+"-µs")
		if i == 0 {
			continue
		}
		cost := make([]float64, len(seconds[i]))
		for round := range cost {
			cost[round] = seconds[i][round] - seconds[0][round]
		}
		b.ReportMetric(float64(forms[i].decoded)/median(cost)/1e12, name+"-TB/s")
	}
	b.ReportMetric(0, "ns/op")
}

// inputs are x, cos and sin.
func (p problem) inputs(b *testing.B, d *backend.Device) []*tensors.Tensor {
	b.Helper()
	dim := p.hidden / p.heads
	positions := make([]int32, p.seq)
	for i := range positions {
		positions[i] = int32(i)
	}
	cos, sin := nn.Rope{Tables: []nn.Frequencies{nn.Constant(nn.InverseFrequencies(10000, dim), 1)}}.Table(positions, 0)
	upload := func(dtype dtypes.DType, values []float32, dims ...int) *tensors.Tensor {
		t, err := backend.UploadFloats(d, dtype, values, dims...)
		if err != nil {
			b.Fatal(err)
		}
		return t
	}
	return []*tensors.Tensor{
		upload(dtypes.BFloat16, reference.Normal(9, p.batch*p.seq*p.hidden, 1), p.batch, p.seq, p.hidden),
		upload(dtypes.Float32, cos, 1, p.seq, dim/2), upload(dtypes.Float32, sin, 1, p.seq, dim/2),
	}
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return (x[len(x)/2] + x[(len(x)-1)/2]) / 2
}
