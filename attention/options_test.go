package attention

import (
	"math"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/backend"
)

// open opens the embedded backend for a test.
func open(t testing.TB) *backend.Device {
	t.Helper()
	d, err := backend.Open("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestDropoutIsTheSameHoweverScoresAreCutAndRowsAreDivided(t *testing.T) {
	d := open(t)
	p := &problem{batch: 2, queries: 50, keys: 50, heads: 2, kvHeads: 1, dim: 16, Options: Options{Causal: true, DropoutRate: 0.5, Route: RouteTiled}}
	in := p.inputs(3)
	p.BlockQ, p.BlockKV = 16, 16
	a := p.compute(t, d, dtypes.Float32, in, false)
	p.BlockQ, p.BlockKV = 50, 24
	b := p.compute(t, d, dtypes.Float32, in, true)
	first := *p
	first.batch = 1
	var half inputs
	for i := range half {
		half[i] = in[i][:len(in[i])/2]
	}
	c := first.compute(t, d, dtypes.Float32, half, false)
	for i := range 4 {
		for _, other := range [][]float32{b[i], c[i]} {
			if !near(a[i][:len(other)], other) {
				t.Errorf("%s differs", resultNames[i])
			}
		}
	}
	other := *p
	other.DropoutRate = 0
	if got := other.compute(t, d, dtypes.Float32, in, false); near(got[0], a[0]) {
		t.Error("dropout changed nothing")
	}
}

// near tells whether a and b are the same up to float32 rounding.
func near(a, b []float32) bool {
	for i := range a {
		if math.Abs(float64(a[i]-b[i])) > 1e-4 {
			return false
		}
	}
	return true
}

func TestDropoutKeepsAsManyAsItsRateSays(t *testing.T) {
	d := open(t)
	out, err := CallOnceN(d.Backend, func(keys *Node) []*Node {
		g := keys.Graph()
		q := Zeros(g, shapes.Make(dtypes.Float32, 3, 200, 2, 8))
		c := newCall(q, q, q, Options{DropoutRate: 0.3, DropoutKeys: keys})
		return []*Node{ReduceMean(ConvertDType(c.kept(0, 200, 0, 200), dtypes.Float32), 1, 2, 3, 4), // per row
			ReduceMean(ConvertDType(c.kept(0, 200, 0, 200), dtypes.Float32), 0, 1, 2, 3)} // per key
	}, []uint32{0, 1, 1 << 31})
	if err != nil {
		t.Fatal(err)
	}
	for i, samples := range []float64{2 * 200 * 200, 3 * 2 * 200} {
		limit := 4.5 * math.Sqrt(0.3*0.7/samples)
		for _, mean := range out[i].Value().([]float32) {
			if math.Abs(float64(mean)-0.7) > limit {
				t.Errorf("of %v weights %.4f are kept, want 0.7 ± %.4f", samples, mean, limit)
			}
		}
	}
}

func TestABiasOfMinusInfinityHidesKeys(t *testing.T) {
	d := open(t)
	for _, route := range []Route{RouteTiled, RouteDense} {
		p := &problem{batch: 1, queries: 40, keys: 40, heads: 2, kvHeads: 1, dim: 16, biasBatch: 1, biasHeads: 1, Options: Options{Route: route, BlockQ: 16, BlockKV: 16}}
		in := p.inputs(5)
		for x := range in[4] {
			if in[4][x] = 0; x%40 > x/40 {
				in[4][x] = float32(math.Inf(-1))
			}
		}
		got := p.compute(t, d, dtypes.Float32, in, false)
		causal := *p
		causal.Causal, causal.biasBatch, causal.biasHeads = true, 0, 0
		want := causal.reference(in)
		want.results[4] = nil // which causal has not
		if e, name := want.worst(got); !(e <= 1e-5) {
			t.Errorf("%v: %s is off by %.3g", route, name, e)
		}
		for x, g := range got[4] {
			if x%40 > x/40 && g != 0 {
				t.Fatalf("%v: hidden score %d has gradient %g", route, x, g)
			}
		}
	}
}

func TestAQueryWhoseKeysABiasHidesHasNoGradient(t *testing.T) {
	onBackends(t, func(t *testing.T, d *backend.Device) {
		for _, route := range []Route{RouteTiled, RouteDense} {
			for _, low := range []float64{math.Inf(-1), -math.MaxFloat32, -1e30, -1e21} {
				p := &problem{batch: 1, queries: 40, keys: 40, heads: 2, kvHeads: 1, dim: 16, biasBatch: 1, biasHeads: 1, Options: Options{Route: route, BlockQ: 16, BlockKV: 16}}
				in := p.inputs(6)
				for x := range 40 {
					in[4][3*40+x] = float32(low)
				}
				got := p.compute(t, d, dtypes.Float32, in, false)
				for i, name := range []string{"out", "dq", "dk", "dv", "dBias"} {
					for x, v := range got[i] {
						if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
							t.Fatalf("%v, bias %g: %s[%d] is %g", route, low, name, x, v)
						}
					}
				}
				at := 3 * p.heads * p.dim
				for i := range 2 { // out and dq of query 3
					for x, v := range got[i][at : at+p.heads*p.dim] {
						if v != 0 {
							t.Fatalf("%v, bias %g: result %d of the query that sees nothing is %g at %d", route, low, i, v, x)
						}
					}
				}
			}
		}
	})
}

func TestSmallScalesKeepTheirDigitsInFloat16(t *testing.T) {
	onBackends(t, func(t *testing.T, d *backend.Device) {
		for _, route := range []Route{RouteTiled, RouteDense} {
			p := &problem{batch: 1, queries: 40, keys: 40, heads: 2, kvHeads: 1, dim: 64, Options: Options{Route: route, Scale: 1.0 / 256, BlockQ: 16, BlockKV: 16}}
			in := p.inputs(7)
			for x := range in[0] {
				in[0][x] /= 1024 // with the scale below float16's normal numbers
			}
			for x := range in[3] {
				in[3][x] *= 256 // with which gradients are above
			}
			if e, name := p.reference(in).worst(p.compute(t, d, dtypes.Float16, in, false)); !(e <= 2e-3) {
				t.Errorf("%v: %s is off by %.3g", route, name, e)
			}
		}
	})
}

func TestMisuseIsNamed(t *testing.T) {
	d := open(t)
	of := func(dtype dtypes.DType, dims ...int) func(g *Graph) *Node {
		return func(g *Graph) *Node { return Zeros(g, shapes.Make(dtype, dims...)) }
	}
	q, kv := of(dtypes.Float32, 2, 3, 4, 8), of(dtypes.Float32, 2, 3, 2, 8)
	for _, x := range []struct {
		want    string
		k       func(g *Graph) *Node
		options func(g *Graph) Options
	}{
		{"evenly", of(dtypes.Float32, 2, 3, 3, 8), func(g *Graph) Options { return Options{} }},
		{"do not fit", of(dtypes.Float32, 1, 3, 2, 8), func(g *Graph) Options { return Options{} }},
		{"Window is -1", kv, func(g *Graph) Options { return Options{Window: -1} }},
		{"MaxSegments is -4", kv, func(g *Graph) Options { return Options{MaxSegments: -4} }},
		{"SoftCap is -2", kv, func(g *Graph) Options { return Options{SoftCap: -2} }},
		{"RouteCuDNN does not apply: the backend", kv, func(g *Graph) Options { return Options{Route: RouteCuDNN} }},
		{"unknown Route(9", kv, func(g *Graph) Options { return Options{Route: 9} }},
		{"KVSegmentIDs without", kv, func(g *Graph) Options { return Options{KVSegmentIDs: of(dtypes.Int32, 2, 3)(g)} }},
		{"SegmentIDs has shape", kv, func(g *Graph) Options { return Options{SegmentIDs: of(dtypes.Int32, 2, 4)(g)} }},
		{"Bias has shape (Float32)[2, 2, 3, 3]; want [2 or 1, 4 or 1, 3, 3]", kv, func(g *Graph) Options { return Options{Bias: of(dtypes.Float32, 2, 2, 3, 3)(g)} }},
		{"Bias is Float64", kv, func(g *Graph) Options { return Options{Bias: of(dtypes.Float64, 1, 1, 3, 3)(g)} }},
		{"DropoutRate is 1;", kv, func(g *Graph) Options { return Options{DropoutRate: 1} }},
		{"without DropoutKeys", kv, func(g *Graph) Options { return Options{DropoutRate: 0.1} }},
		{"DropoutKeys has shape", kv, func(g *Graph) Options { return Options{DropoutRate: 0.1, DropoutKeys: of(dtypes.Uint32, 3)(g)} }},
	} {
		_, err := CallOnceN(d.Backend, func(g *Graph) []*Node {
			return []*Node{Attend(q(g), x.k(g), x.k(g), x.options(g))}
		})
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("got error %v, want one with %q", err, x.want)
		}
	}
}
