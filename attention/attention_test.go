package attention

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
)

// shape is one problem; ids say the document of each token, 0 is padding.
type shape struct {
	batch, queries, keys, heads, kvHeads, dim int
	ids                                       []int32
}

// onBackends runs the test on the embedded backend and on those that LORIS_TEST_BACKENDS lists.
func onBackends(t *testing.T, test func(t *testing.T, d *backend.Device)) {
	for _, spec := range append([]string{"go"}, strings.Fields(os.Getenv("LORIS_TEST_BACKENDS"))...) {
		t.Run(spec, func(t *testing.T) {
			d, err := backend.Open(spec)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			test(t, d)
		})
	}
}

// inputs are q, k, v and the gradient of the output, rounded to bfloat16 so that every dtype starts from the same.
func (s shape) inputs(seed uint64) [4][]float32 {
	random := rand.New(rand.NewPCG(seed, 7))
	var in [4][]float32
	for i, n := range []int{s.queries * s.heads, s.keys * s.kvHeads, s.keys * s.kvHeads, s.queries * s.heads} {
		in[i] = make([]float32, s.batch*n*s.dim)
		for j := range in[i] {
			in[i][j] = math.Float32frombits(math.Float32bits(float32(random.NormFloat64())) &^ 0xffff)
		}
	}
	return in
}

// reference computes out, dq, dk, dv in float64, score by score.
func (s shape) reference(o Options, in [4][]float32) (r [4][]float64) {
	q, k, v, dOut := in[0], in[1], in[2], in[3]
	for i, x := range []int{len(q), len(q), len(k), len(k)} {
		r[i] = make([]float64, x)
	}
	scale := o.Scale
	if scale == 0 {
		scale = 1 / math.Sqrt(float64(s.dim))
	}
	group := s.heads / s.kvHeads
	for b := range s.batch {
		for h := range s.heads {
			for i := range s.queries {
				qa := ((b*s.queries+i)*s.heads + h) * s.dim
				key := func(j int) int { return ((b*s.keys+j)*s.kvHeads + h/group) * s.dim }
				w, slope, sum := make([]float64, s.keys), make([]float64, s.keys), 0.0
				for j := range s.keys {
					if !s.sees(o, b, i, j) {
						continue
					}
					x := 0.0
					for c := range s.dim {
						x += float64(q[qa+c]) * float64(k[key(j)+c])
					}
					x, slope[j] = x*scale, scale
					if o.SoftCap > 0 {
						th := math.Tanh(x / o.SoftCap)
						x, slope[j] = o.SoftCap*th, scale*(1-th*th)
					}
					w[j] = math.Exp(x)
					sum += w[j]
				}
				if sum == 0 {
					continue
				}
				dw, mean := make([]float64, s.keys), 0.0
				for j := range w {
					w[j] /= sum
					for c := range s.dim {
						r[0][qa+c] += w[j] * float64(v[key(j)+c])
						dw[j] += float64(dOut[qa+c]) * float64(v[key(j)+c])
						r[3][key(j)+c] += w[j] * float64(dOut[qa+c])
					}
					mean += w[j] * dw[j]
				}
				for j := range w {
					ds := w[j] * (dw[j] - mean) * slope[j]
					for c := range s.dim {
						r[1][qa+c] += ds * float64(k[key(j)+c])
						r[2][key(j)+c] += ds * float64(q[qa+c])
					}
				}
			}
		}
	}
	return r
}

func (s shape) sees(o Options, b, i, j int) bool {
	at := i + o.QueryOffset
	switch {
	case (o.Causal || o.Window > 0) && j > at, o.Window > 0 && j <= at-o.Window:
		return false
	case s.ids != nil:
		return s.ids[b*s.queries+i] == s.ids[b*s.keys+j]
	}
	return true
}

// compute returns out, dq, dk, dv: in one program, or with out and lse from an earlier one.
func (s shape) compute(t *testing.T, d *backend.Device, dtype dtypes.DType, o Options, in [4][]float32, saved bool) (r [4][]float32) {
	t.Helper()
	var args []any
	for i, x := range in {
		n, heads := s.queries, s.heads
		if i == 1 || i == 2 {
			n, heads = s.keys, s.kvHeads
		}
		u, err := backend.UploadFloats(d, dtype, x, s.batch, n, heads, s.dim)
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, u)
	}
	if s.ids != nil {
		u, err := backend.UploadValues(d, s.ids, s.batch, s.queries)
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, u)
	}
	options := func(in []*Node) Options {
		o := o
		if s.ids != nil {
			o.SegmentIDs = in[4]
		}
		return o
	}
	grads := func(out *Node, in []*Node) []*Node {
		return append([]*Node{out}, Gradient(ReduceAllSum(ConvertDType(Mul(out, in[3]), dtypes.Float32)), in[:3]...)...)
	}
	run := func(f func(in []*Node) []*Node, args ...any) []*tensors.Tensor {
		out, err := CallOnceN(d.Backend, f, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	var out []*tensors.Tensor
	if saved {
		kept := run(func(in []*Node) []*Node {
			out, lse := Forward(in[0], in[1], in[2], options(in))
			return []*Node{out, lse}
		}, args...)
		n := len(args)
		out = run(func(in []*Node) []*Node {
			return grads(FromSaved(in[0], in[1], in[2], in[n], in[n+1], options(in)), in)
		}, append(args, kept[0], kept[1])...)
	} else {
		out = run(func(in []*Node) []*Node { return grads(Attend(in[0], in[1], in[2], options(in)), in) }, args...)
	}
	for i := range r {
		var err error
		if r[i], err = backend.DownloadFloats(out[i]); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func relative(got []float32, want []float64) float64 {
	diff, norm := 0.0, 0.0
	for i := range want {
		e := float64(got[i]) - want[i]
		diff, norm = diff+e*e, norm+want[i]*want[i]
	}
	if norm == 0 {
		return math.Sqrt(diff)
	}
	return math.Sqrt(diff / norm)
}

func check(t *testing.T, what string, got [4][]float32, want [4][]float64, limit float64) {
	t.Helper()
	for i, name := range []string{"out", "dq", "dk", "dv"} {
		if e := relative(got[i], want[i]); !(e <= limit) {
			t.Errorf("%s: %s is off by %.3g, want at most %.3g", what, name, e, limit)
		}
	}
}

// problems are odd sizes; segments are documents and padding that do not end at tile borders.
func problems() []shape {
	documents := func(batch, length int) []int32 {
		ids := make([]int32, batch*length)
		for i := range ids {
			b, at := i/length, i%length
			switch {
			case at < length/3+b:
				ids[i] = 1
			case at < 4*length/5:
				ids[i] = 2
			}
		}
		return ids
	}
	return []shape{
		{1, 1, 1, 2, 1, 16, nil},
		{1, 7, 7, 4, 4, 40, nil},
		{3, 65, 65, 4, 2, 16, nil},
		{1, 130, 130, 4, 1, 64, nil},
		{2, 130, 130, 2, 1, 24, documents(2, 130)},
		{3, 65, 65, 3, 3, 16, documents(3, 65)},
		{2, 33, 150, 4, 2, 16, nil},
		{2, 96, 96, 4, 2, 40, nil},
		{1, 132, 132, 4, 1, 128, nil},
	}
}

func TestEveryOptionAgreesWithFloat64(t *testing.T) {
	onBackends(t, func(t *testing.T, d *backend.Device) {
		for i, s := range problems() {
			// XLA compiles for a second per program: there, a few problems, as a layer-wise program uses attention.
			compiled := d.Kind != backend.Go
			if compiled && i != 3 && i != 4 && i != 7 {
				continue
			}
			in := s.inputs(uint64(i))
			for _, o := range []Options{
				{}, {Causal: true}, {Causal: true, Scale: 0.3}, {Window: 20}, {Causal: true, SoftCap: 2}, {Window: 9, SoftCap: 5},
			} {
				if s.queries != s.keys && (o.Causal || o.Window > 0) {
					o.QueryOffset = s.keys - s.queries
				}
				want := s.reference(o, in)
				for _, route := range []Route{RouteAuto, RouteDense, RouteTiled} {
					o.Route = route
					o.BlockQ, o.BlockKV = 32, 48
					for _, saved := range []bool{false, true} {
						if compiled && (route == RouteDense || !saved) {
							continue
						}
						what := fmt.Sprintf("%+v %v %+v saved=%v", s.dims(), s.ids != nil, o, saved)
						check(t, what, s.compute(t, d, dtypes.Float32, o, in, saved), want, 1e-5)
					}
				}
				if d.Kind == backend.Go && i != 4 {
					continue // bfloat16 once is enough where it is slow
				}
				o.Route, o.BlockQ, o.BlockKV = RouteAuto, 0, 0
				for _, saved := range []bool{false, true} {
					what := fmt.Sprintf("bf16 %+v %v %+v saved=%v", s.dims(), s.ids != nil, o, saved)
					check(t, what, s.compute(t, d, dtypes.BFloat16, o, in, saved), want, 1.2e-2)
				}
			}
		}
	})
}

func (s shape) dims() []int { return []int{s.batch, s.queries, s.keys, s.heads, s.kvHeads, s.dim} }

func TestDocumentsDoNotLeak(t *testing.T) {
	onBackends(t, func(t *testing.T, d *backend.Device) {
		s := problems()[4]
		o := Options{Causal: true, BlockQ: 32, BlockKV: 32, Route: RouteTiled}
		in := s.inputs(1)
		a := s.compute(t, d, dtypes.Float32, o, in, false)
		for i := range in[0] { // another second document
			row := i / (s.heads * s.dim)
			if s.ids[row] == 2 {
				in[0][i] = -in[0][i]
			}
		}
		for i := range in[1] {
			if s.ids[i/(s.kvHeads*s.dim)] == 2 {
				in[1][i], in[2][i] = 3*in[1][i], in[2][i]+1
			}
		}
		b := s.compute(t, d, dtypes.Float32, o, in, false)
		for n, name := range []string{"out", "dq", "dk", "dv"} {
			width := len(a[n]) / len(s.ids)
			changed := false
			for i := range a[n] {
				if s.ids[i/width] != 2 && a[n][i] != b[n][i] {
					t.Fatalf("%s of document %d changed with document 2", name, s.ids[i/width])
				}
				changed = changed || a[n][i] != b[n][i]
			}
			if !changed {
				t.Errorf("%s did not change at all", name)
			}
		}
	})
}

func TestTilesThatPositionsHideAreLeftOut(t *testing.T) {
	for _, x := range []struct {
		o    Options
		want int
	}{
		{Options{}, 16},
		{Options{Causal: true}, 10},
		{Options{Window: 64}, 7},
		{Options{Causal: true, QueryOffset: 256}, 16},
	} {
		x.o.BlockQ, x.o.BlockKV = 64, 64
		c := &call{Options: x.o, queries: 256, keys: 256}
		if x.o.Window > 0 {
			c.Causal = true
		}
		n := 0
		for _, b := range c.bands() {
			n += len(b.tiles)
		}
		if n != x.want {
			t.Errorf("%+v: %d tiles, want %d", x.o, n, x.want)
		}
	}
}

func TestTileCountAndTileSizeStayBounded(t *testing.T) {
	for length := 128; length <= 1<<20; length *= 2 {
		c := &call{Options: Options{Causal: true}, queries: length, keys: length}
		n := 0
		for _, b := range c.bands() {
			n += len(b.tiles)
		}
		q, k := c.blocks()
		if area := q * k; n > 40+length/64 || area > max(minBlock*minBlock, 80*length) {
			t.Errorf("length %d: %d tiles of %d × %d", length, n, q, k)
		}
	}
}

func TestMisuseIsNamed(t *testing.T) {
	d, err := backend.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	q, k := make([]float32, 2*3*4*8), make([]float32, 2*3*3*8)
	for want, o := range map[string]Options{
		"evenly":               {},
		"Window is -1":         {Window: -1},
		"does not apply":       {Route: RouteCuDNN},
		"unknown Route(9":      {Route: 9},
		"KVSegmentIDs without": {},
	} {
		heads := 3
		if want != "evenly" {
			heads = 4
			k = q
		}
		qt, _ := backend.UploadFloats(d, dtypes.Float32, q, 2, 3, 4, 8)
		kt, _ := backend.UploadFloats(d, dtypes.Float32, k[:2*3*heads*8], 2, 3, heads, 8)
		_, err := CallOnceN(d.Backend, func(in []*Node) []*Node {
			o := o
			if strings.HasPrefix(want, "KV") {
				o.KVSegmentIDs = Zeros(in[0].Graph(), in[0].Shape())
			}
			return []*Node{Attend(in[0], in[1], in[1], o)}
		}, qt, kt)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
}
