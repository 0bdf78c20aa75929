package nn_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/kernels"
	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/quant"
)

// problem is a decoder layer of Llama's kind with random weights.
type problem struct {
	name             string
	batch, seq       int
	part             int // tokens that go through the MLP at a time; 0: all
	hidden, features int
	heads, kvHeads   int
	packed, nested   bool
	bias             bool
	gelu             bool           // GeGLU in place of SwiGLU
	dropout          float64        // before the adapters
	rows             int            // of factors on what the As put out; 0: none
	shift            bool           // trained vectors behind q, up, o and down
	dora             bool           // adapters have magnitudes, but for those on k and gate
	ranks            map[string]int // by linear; others have no adapter
	dtype            dtypes.DType
	float8           bool
	seed             uint64
	even             bool // products keep the size of what goes in, as in real models; else they grow
}

func all(r int) map[string]int {
	return map[string]int{"q": r, "k": r, "v": r, "o": r, "gate": r, "up": r, "down": r}
}

// set is the layer as tensors.
type set struct {
	p             problem
	base, adapter *nn.Layout
	slots         []*tensors.Tensor // of base, then of adapter
	x, dy         *tensors.Tensor
	cos, sin      *tensors.Tensor
	segments      *tensors.Tensor
}

func (p problem) make(t *testing.T, d *backend.Device) *set {
	random := rand.New(rand.NewPCG(7+p.seed, uint64(p.seq)))
	values := func(n int, scale float64) []float32 {
		v := make([]float32, n)
		for i := range v {
			x := float32(random.NormFloat64() * scale)
			v[i] = math.Float32frombits(math.Float32bits(x) &^ 0xffff) // the same numbers in bfloat16
		}
		return v
	}
	upload := func(s shapes.Shape, v []float32) *tensors.Tensor {
		raw, err := backend.UploadFloats(d, s.DType, v, s.Dimensions...)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	s := &set{p: p}
	base, adapters := nn.NewLayout(), nn.NewLayout()
	for _, n := range []string{"norm1", "norm2"} {
		base.Norm(nn.Norm{Name: n, Size: p.hidden}, p.dtype, false)
		gain := values(p.hidden, 0.3)
		for i := range gain {
			gain[i]++
		}
		s.slots = append(s.slots, upload(shapes.Make(p.dtype, p.hidden), gain))
	}
	dim := p.hidden / p.heads
	groups := [][]nn.Linear{
		{{Name: "q", In: p.hidden, Out: p.hidden, Bias: p.bias}, {Name: "k", In: p.hidden, Out: p.kvHeads * dim, Bias: p.bias}, {Name: "v", In: p.hidden, Out: p.kvHeads * dim, Bias: p.bias}},
		{{Name: "o", In: p.hidden, Out: p.hidden}},
		{{Name: "gate", In: p.hidden, Out: p.features}, {Name: "up", In: p.hidden, Out: p.features}},
		{{Name: "down", In: p.features, Out: p.hidden, Bias: p.bias}},
	}
	var loras []*tensors.Tensor
	for _, g := range groups {
		out := 0
		as, bs := map[string][]float32{}, map[string][]float32{}
		for _, l := range g {
			out += l.Out
			if r := p.ranks[l.Name]; r > 0 {
				as[l.Name], bs[l.Name] = values(r*l.In, 0.2), values(r*l.Out, 0.2)
				if p.even {
					as[l.Name], bs[l.Name] = values(r*l.In, 1/math.Sqrt(float64(l.In))), values(r*l.Out, 0.02)
				}
			}
		}
		deviation := 0.1
		if p.even {
			deviation = 1 / math.Sqrt(float64(g[0].In))
		}
		w := values(out*g[0].In, deviation)
		stands := w // what the weight stands for
		if p.packed {
			bytes, state, err := quant.Quantize4Bit(w, quant.NF4, 64, p.nested)
			if err != nil {
				t.Fatal(err)
			}
			state.Shape = []int{out, g[0].In}
			if stands, err = quant.Dequantize4Bit(bytes, state); err != nil {
				t.Fatal(err)
			}
			packed, err := quant.NewPacked(bytes, state)
			if err != nil {
				t.Fatal(err)
			}
			var arrays []shapes.Shape
			for _, in := range packed.Inputs() {
				tensor, err := d.Upload(in.Shape, in.Raw)
				if err != nil {
					t.Fatal(err)
				}
				arrays, s.slots = append(arrays, in.Shape), append(s.slots, tensor)
			}
			base.Packed(g, packed.Layout, arrays, p.dtype)
		} else {
			base.Dense(g, p.dtype, false)
			s.slots = append(s.slots, upload(shapes.Make(p.dtype, out, g[0].In), w))
		}
		if g[0].Bias {
			s.slots = append(s.slots, upload(shapes.Make(p.dtype, out), values(out, 0.1)))
		}
		row := 0
		for _, l := range g {
			if r := p.ranks[l.Name]; r > 0 {
				a := nn.Adapter{R: r, Scaling: 1.5, Dropout: p.dropout, DoRA: p.dora && l.Name != "k" && l.Name != "gate", Rows: p.rows}
				adapters.Adapter(l, a)
				loras = append(loras, upload(shapes.Make(dtypes.Float32, r, l.In), as[l.Name]), upload(shapes.Make(dtypes.Float32, l.Out, r), bs[l.Name]))
				if p.rows > 0 {
					loras = append(loras, upload(shapes.Make(dtypes.Float32, p.rows, r), values(p.rows*r, 1)))
				}
				if a.DoRA {
					square := squares(stands[row*l.In:(row+l.Out)*l.In], l.In)
					loras = append(loras, upload(shapes.Make(dtypes.Float32, l.Out), values(l.Out, 0.5)), upload(shapes.Make(dtypes.Float32, l.Out), square))
				}
			}
			row += l.Out
			if p.shift && slices.Contains([]string{"q", "up", "o", "down"}, l.Name) {
				adapters.Shift(l, 1.25)
				loras = append(loras, upload(shapes.Make(dtypes.Float32, l.Out), values(l.Out, 0.3)))
			}
		}
	}
	s.base, s.adapter = base.Build(), adapters.Build()
	s.slots = append(s.slots, loras...)
	n := p.batch * p.seq * p.hidden
	s.x = upload(shapes.Make(p.dtype, p.batch, p.seq, p.hidden), values(n, 1))
	s.dy = upload(shapes.Make(p.dtype, p.batch, p.seq, p.hidden), values(n, 1))
	positions := make([]int32, p.seq)
	for i := range positions {
		positions[i] = int32(i)
	}
	cos, sin := nn.Rope{Tables: []nn.Frequencies{nn.Constant(nn.InverseFrequencies(10000, dim), 1)}}.Table(positions, 0)
	s.cos, s.sin = upload(shapes.Make(dtypes.Float32, 1, p.seq, dim/2), cos), upload(shapes.Make(dtypes.Float32, 1, p.seq, dim/2), sin)
	return s
}

// squares are the squared norms of rows of n values.
func squares(w []float32, n int) []float32 {
	out := make([]float32, len(w)/n)
	for i, v := range w {
		out[i/n] += v * v
	}
	return out
}

func (p problem) block(l *nn.Layer, x *Node) *Node {
	q, k, v := l.RotaryHeads(l.NormLinears(x, "norm1", "q", "k", "v"))
	x = l.AddLinear(x, l.Attend(q, k, v, attention.Options{}), "o")
	gate := l.SwiGLU
	if p.gelu {
		gate = l.GeGLU
	}
	return l.PerToken(x, func(x *Node) *Node {
		return l.AddLinear(x, gate(l.NormLinears(x, "norm2", "gate", "up")), "down")
	})
}

// apply builds the layer over the first nodes of in and returns its output, its trainable nodes and the nodes left.
func (s *set) apply(form nn.Form, tape *nn.Tape, x *Node, in []*Node) (y *Node, trainable []*Node) {
	shape := nn.Shape{
		Hidden: s.p.hidden, Heads: s.p.heads, KVHeads: s.p.kvHeads, HeadDim: s.p.hidden / s.p.heads, NormEps: 1e-5, Compute: s.p.dtype, Float8: s.p.float8, Form: form,
	}
	b := nn.Batch{Cos: in[0], Sin: in[1], PartTokens: s.p.part}
	if s.p.dropout > 0 {
		b.RowKeys = Const(x.Graph(), []uint32{77, 5, 1 << 31}[:s.p.batch])
	}
	l := nn.NewLayer(shape, b, tape).At(Const(x.Graph(), uint32(3)))
	slots := in[2:]
	n := len(s.base.Slots)
	l.Bind(s.base, slots[:n])
	l.Bind(s.adapter, slots[n:])
	for _, i := range s.adapter.Trainable() {
		trainable = append(trainable, slots[n+i])
	}
	return s.p.block(l, x), trainable
}

// run runs a program once.
func run(t *testing.T, d *backend.Device, build func(in []*Node) []*Node, in ...*tensors.Tensor) []*tensors.Tensor {
	t.Helper()
	exec, err := NewExec(d.Backend, build)
	if err != nil {
		t.Fatal(err)
	}
	defer exec.Finalize()
	args := make([]any, len(in))
	for i, a := range in {
		args[i] = a
	}
	out, err := exec.Call(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Rows that see adapters of their own do so in the fused form as in the plain one, which the fused form leaves to the backward
// pass.
func TestFusedFormChoosesAdaptersByRows(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, spec string) {
		d, err := backend.Open(spec)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		for _, p := range []problem{
			{name: "nf4", batch: 3, seq: 5, hidden: 64, features: 128, heads: 4, kvHeads: 2, packed: true, rows: 4, ranks: all(6)},
			{name: "dense, some linears", batch: 2, seq: 3, hidden: 40, features: 56, heads: 2, kvHeads: 1, bias: true, rows: 2, ranks: map[string]int{"q": 3, "o": 70, "up": 2}},
		} {
			p.dtype = dtypes.Float32
			s := p.make(t, d)
			forward := func(form nn.Form) []float32 {
				out := run(t, d, func(in []*Node) []*Node {
					y, _ := s.apply(form, nil, in[0], in[1:])
					return []*Node{y}
				}, append([]*tensors.Tensor{s.x, s.cos, s.sin}, s.slots...)...)
				v, err := backend.DownloadFloats(out[0])
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
			reference.CheckClose(t, p.name, forward(nn.FormFused), forward(nn.FormPlain), 2e-5)
		}
	})
}

// step runs a forward and a backward program and returns y, dx and the adapters' gradients.
func (s *set) step(t *testing.T, d *backend.Device, form nn.Form, keep nn.Keep) [][]float32 {
	t.Helper()
	common := append([]*tensors.Tensor{s.cos, s.sin}, s.slots...)
	out := run(t, d, func(in []*Node) []*Node {
		tape := nn.Record(keep)
		y, _ := s.apply(form, tape, in[0], in[1:])
		return append([]*Node{y}, tape.Kept(y)...)
	}, append([]*tensors.Tensor{s.x}, common...)...)
	y, kept := out[0], out[1:]
	grads := run(t, d, func(in []*Node) []*Node {
		tape := nn.Replay(keep, in[2:2+len(kept)])
		y, trainable := s.apply(form, tape, in[0], in[2+len(kept):])
		return tape.Gradients(y, in[1], append([]*Node{in[0]}, trainable...))
	}, append(append([]*tensors.Tensor{s.x, s.dy}, kept...), common...)...)
	var all [][]float32
	for _, r := range append([]*tensors.Tensor{y}, grads...) {
		v, err := backend.DownloadFloats(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	return all
}

func TestFusedFormEqualsThePlainOneWhateverIsKept(t *testing.T) {
	problems := []problem{
		{name: "nf4 nested, all linears", batch: 2, seq: 7, hidden: 64, features: 128, heads: 4, kvHeads: 2, packed: true, nested: true, ranks: all(4)},
		{name: "nf4, unequal ranks", batch: 1, seq: 5, hidden: 128, features: 192, heads: 2, kvHeads: 1, packed: true,
			ranks: map[string]int{"q": 3, "v": 8, "up": 2, "gate": 5, "down": 1}},
		{name: "dense, q and v", batch: 2, seq: 3, hidden: 48, features: 40, heads: 3, kvHeads: 3, ranks: map[string]int{"q": 2, "v": 2}},
		{name: "dense with biases, high rank", batch: 1, seq: 9, hidden: 40, features: 56, heads: 4, kvHeads: 2, bias: true, ranks: all(72)},
		{name: "gate and up alone", batch: 1, seq: 4, hidden: 64, features: 64, heads: 4, kvHeads: 1, packed: true, ranks: map[string]int{"gate": 4, "up": 4}},
		{name: "down alone", batch: 3, seq: 4, hidden: 64, features: 64, heads: 4, kvHeads: 1, packed: true, ranks: map[string]int{"down": 4}},
		{name: "many rows", batch: 2, seq: kernels.MinLowRows / 2, hidden: 64, features: 64, heads: 1, kvHeads: 1, packed: true, ranks: all(4)},
		{name: "many rows, unequal ranks", batch: 1, seq: kernels.MinLowRows, hidden: 64, features: 128, heads: 1, kvHeads: 1, packed: true, gelu: true, ranks: map[string]int{"gate": 3, "down": 5}},
		{name: "many rows, rank 16", batch: 1, seq: kernels.MinLowRows, hidden: 64, features: 128, heads: 2, kvHeads: 1, packed: true, nested: true, ranks: all(16)},
		{name: "rank 8", batch: 2, seq: 33, hidden: 64, features: 128, heads: 4, kvHeads: 2, packed: true, ranks: all(8)},
		{name: "GeGLU", batch: 1, seq: 5, hidden: 64, features: 128, heads: 4, kvHeads: 2, packed: true, gelu: true, ranks: all(4)},
		{name: "dropout", batch: 2, seq: 7, hidden: 64, features: 128, heads: 4, kvHeads: 2, packed: true, nested: true, dropout: 0.3, ranks: all(4)},
		{name: "dropout, unequal ranks, dense", batch: 3, seq: 5, hidden: 40, features: 56, heads: 2, kvHeads: 1, bias: true, gelu: true, dropout: 0.1,
			ranks: map[string]int{"q": 3, "v": 8, "o": 2, "up": 2, "gate": 5, "down": 72}},
		{name: "DoRA", batch: 2, seq: 7, hidden: 64, features: 128, heads: 4, kvHeads: 2, packed: true, nested: true, dora: true, ranks: all(4)},
		{name: "DoRA, unequal ranks, biases, dense", batch: 3, seq: 5, hidden: 40, features: 56, heads: 2, kvHeads: 1, bias: true, gelu: true, dora: true,
			ranks: map[string]int{"q": 3, "v": 8, "o": 2, "up": 5, "down": 72}},
		{name: "shifts", batch: 2, seq: 5, hidden: 64, features: 64, heads: 4, kvHeads: 2, packed: true, bias: true, shift: true, ranks: all(3)},
		{name: "shifts and DoRA, dense", batch: 1, seq: 5, hidden: 40, features: 56, heads: 2, kvHeads: 1, shift: true, dora: true, ranks: map[string]int{"q": 2, "gate": 3, "up": 3}},
		{name: "DoRA with dropout", batch: 2, seq: 6, hidden: 64, features: 64, heads: 4, kvHeads: 2, packed: true, dropout: 0.2, dora: true, ranks: all(3)},
	}
	reference.OnBackends(t, func(t *testing.T, spec string) {
		d, err := backend.Open(spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		for i, p := range problems {
			p.dtype = dtypes.Float32
			t.Run(p.name, func(t *testing.T) {
				t.Parallel() // compiling takes the time
				s := p.make(t, d)
				want := s.step(t, d, nn.FormPlain, nn.KeepNothing)
				keeps := []nn.Keep{nn.KeepNothing, nn.KeepSmall | nn.KeepResidual | nn.KeepAttention, nn.KeepAll}
				if strings.HasPrefix(spec, "xla") {
					keeps = []nn.Keep{nn.KeepNothing, nn.KeepAll}
				}
				if spec == "xla:cpu" { // one of both in turn
					keeps = keeps[i%2:][:1]
				}
				forms := []nn.Form{nn.FormFused}
				if spec == "" { // elsewhere each takes seconds to compile
					keeps = append(keeps, nn.KeepSmall, nn.KeepSmall|nn.KeepResidual, nn.KeepSmall|nn.KeepGate)
					forms = append(forms, nn.FormPlain)
				}
				for _, keep := range keeps {
					for _, form := range forms {
						compare(t, fmt.Sprintf("form %d, keep %05b", form, keep), errorsOf(s.step(t, d, form, keep), want), slices.Repeat([]float64{2e-5}, len(want)))
					}
				}
			})
		}
	})
}

// In bfloat16 the fused form has fewer roundings than the plain one in some places and others in others: against float32
// it must not be farther off.
func TestFusedFormIsAsPreciseAsThePlainOneInBFloat16(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, spec string) {
		problems := []problem{
			{name: "small", batch: 2, seq: 24, hidden: 128, features: 256, heads: 2, kvHeads: 1, packed: true, nested: true, ranks: all(16)},
			{name: "many rows", batch: 1, seq: kernels.MinLowRows, hidden: 128, features: 128, heads: 2, kvHeads: 1, packed: true, ranks: all(8)},
			{name: "unequal ranks", batch: 1, seq: 33, hidden: 128, features: 128, heads: 2, kvHeads: 2, packed: true, ranks: map[string]int{"q": 4, "v": 8, "gate": 3, "down": 16}},
			{name: "even", even: true, batch: 2, seq: 70, hidden: 256, features: 512, heads: 4, kvHeads: 2, packed: true, nested: true, ranks: all(16)},
			{name: "dropout", batch: 2, seq: 24, hidden: 128, features: 256, heads: 2, kvHeads: 1, packed: true, dropout: 0.1, gelu: true, ranks: all(16)},
			{name: "DoRA", batch: 2, seq: 24, hidden: 128, features: 256, heads: 2, kvHeads: 1, packed: true, nested: true, dora: true, ranks: all(16)},
		}
		if strings.HasPrefix(spec, "xla:cuda") {
			problems = append(problems,
				problem{name: "8B", even: true, batch: 1, seq: 1100, hidden: 4096, features: 14336, heads: 32, kvHeads: 8, packed: true, nested: true, ranks: all(16)},
				problem{name: "8B, rank 64", even: true, batch: 2, seq: 200, hidden: 4096, features: 14336, heads: 32, kvHeads: 8, packed: true, ranks: all(64)},
				problem{name: "8B, dropout", even: true, batch: 1, seq: 512, hidden: 4096, features: 14336, heads: 32, kvHeads: 8, packed: true, nested: true, dropout: 0.05, ranks: all(16)})
		}
		d, err := backend.Open(spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		for _, p := range problems {
			t.Run(p.name, func(t *testing.T) {
				t.Parallel()
				p.dtype = dtypes.Float32
				want := p.make(t, d).step(t, d, nn.FormPlain, nn.KeepNothing)
				p.dtype = dtypes.BFloat16
				s := p.make(t, d)
				plain := errorsOf(s.step(t, d, nn.FormPlain, nn.KeepNothing), want)
				t.Logf("plain form: y, dx and the adapters' gradients are off by %.2g", plain)
				var limits []float64
				for _, e := range plain {
					limits = append(limits, 1.3*e)
				}
				keeps := []nn.Keep{nn.KeepNothing, nn.KeepSmall | nn.KeepResidual, nn.KeepAll}
				if spec == "xla:cpu" {
					keeps = keeps[2:]
				}
				for _, keep := range keeps {
					fused := errorsOf(s.step(t, d, nn.FormFused, keep), want)
					t.Logf("fused form, keep %05b: %.2g", keep, fused)
					compare(t, fmt.Sprintf("keep %05b", keep), fused, limits)
				}
			})
		}
	})
}

func errorsOf(got, want [][]float32) (all []float64) {
	for i := range want {
		all = append(all, reference.RelativeError(got[i], want[i]))
	}
	return all
}

func compare(t *testing.T, what string, errors, limits []float64) {
	t.Helper()
	for i, e := range errors {
		if !(e <= limits[i]) {
			t.Errorf("%s: result %d differs by %.2g, want at most %.2g", what, i, e, limits[i])
		}
	}
}
