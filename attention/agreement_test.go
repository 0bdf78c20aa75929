package attention

import (
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"

	"github.com/loris-ml/loris/internal/backend"
)

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

// documents are ids of two documents, which do not end at tile borders, and padding behind them.
func documents(batch, length int) []int32 {
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

// combinations is the product of sizes and options.
func combinations() (all []*problem) {
	sizes := []problem{
		{batch: 1, queries: 1, keys: 1, heads: 2, kvHeads: 1, dim: 16},
		{batch: 1, queries: 7, keys: 7, heads: 4, kvHeads: 4, dim: 40},
		{batch: 3, queries: 65, keys: 65, heads: 4, kvHeads: 2, dim: 16},
		{batch: 1, queries: 130, keys: 130, heads: 4, kvHeads: 1, dim: 64},
		{batch: 2, queries: 33, keys: 97, heads: 4, kvHeads: 2, dim: 24, Options: Options{QueryOffset: 64}},
		{batch: 2, queries: 70, keys: 51, heads: 3, kvHeads: 1, dim: 80},
		{batch: 1, queries: 45, keys: 81, heads: 2, kvHeads: 2, dim: 128, Options: Options{QueryOffset: 17}},
		{batch: 2, queries: 37, keys: 37, heads: 2, kvHeads: 1, dim: 256},
	}
	for _, p := range sizes {
		for _, mask := range []Options{{}, {Causal: true}, {Window: 9}, {Window: 20}} {
			for _, scores := range []Options{{}, {SoftCap: 3}, {Scale: 1.3 / math.Sqrt(float64(p.dim))}, {SoftCap: 5, Scale: 0.25}} {
				for _, bias := range [][2]int{{}, {1, 1}, {1, p.heads}, {p.batch, 1}, {p.batch, p.heads}} {
					for _, rate := range []float64{0, 0.3} {
						for _, segments := range []bool{false, true} {
							if segments && p.queries != p.keys {
								continue
							}
							p := p
							p.Causal, p.Window, p.SoftCap, p.Scale, p.DropoutRate = mask.Causal, mask.Window, scores.SoftCap, scores.Scale, rate
							p.biasBatch, p.biasHeads = bias[0], bias[1]
							if segments {
								p.ids = documents(p.batch, p.queries)
							}
							all = append(all, &p)
						}
					}
				}
			}
		}
	}
	return all
}

func (p *problem) String() string {
	return fmt.Sprintf("%v segments %v bias %d×%d %+v", []int{p.batch, p.queries, p.keys, p.heads, p.kvHeads, p.dim}, p.ids != nil,
		p.biasBatch, p.biasHeads, p.Options)
}

// TestEveryCombinationAgreesWithFloat64 takes some of the combinations; all of them with LORIS_TEST_LONG=1.
func TestEveryCombinationAgreesWithFloat64(t *testing.T) {
	onBackends(t, func(t *testing.T, d *backend.Device) {
		step := 61 // coprime to the sizes of all axes, so that every value of each comes up
		switch {
		case d.Kind != backend.Go:
			step = 307 // XLA compiles for a second per program
		case os.Getenv("LORIS_TEST_LONG") != "":
			step = 1
		}
		all := combinations()
		tried, top := 0, map[dtypes.DType]float64{}
		for i := 0; i < len(all); i += step {
			p := all[i]
			in := p.inputs(uint64(i))
			want := p.reference(in)
			for _, v := range []struct {
				dtype dtypes.DType
				route Route
				block int
				saved bool
				limit float64
			}{
				{dtypes.Float32, RouteDense, 0, false, 1e-5},
				{dtypes.Float32, RouteTiled, 32, false, 1e-5},
				{dtypes.Float32, RouteTiled, 24, true, 1e-5},
				{dtypes.BFloat16, RouteTiled, 32, i%2 == 0, 1e-2},
				{dtypes.BFloat16, RouteAuto, 0, i%2 == 1, 1e-2},
			} {
				if d.Kind != backend.Go && (v.route == RouteDense || v.saved != (i%2 == 0)) {
					continue
				}
				p := *p
				p.Route, p.BlockQ, p.BlockKV = v.route, v.block, v.block*3/2
				if v.dtype == dtypes.BFloat16 && p.keys < 16 {
					v.limit *= 4 // a handful of keys: gradients that nearly vanish
				}
				e, name := p.worst(p.compute(t, d, v.dtype, in, v.saved), want)
				if !(e <= v.limit) {
					t.Errorf("%s saved=%v %v: %s is off by %.3g, want at most %g", v.dtype, v.saved, &p, name, e, v.limit)
				}
				tried, top[v.dtype] = tried+1, max(top[v.dtype], e)
			}
		}
		t.Logf("%d programs; largest error %.2g in float32, %.2g in bfloat16", tried, top[dtypes.Float32], top[dtypes.BFloat16])
	})
}
