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
			t.Cleanup(func() { d.Close() })
			test(t, d)
		})
	}
}

// limits are the largest errors that the dtypes may have, in parts of what is expected; see expected.error.
var limits = map[dtypes.DType]float64{dtypes.Float32: 1e-5, dtypes.Float16: 2e-3, dtypes.BFloat16: 1e-2}

// combinations is the product of sizes and options.
func combinations() (all []*problem) {
	for _, size := range []problem{
		{batch: 1, queries: 1, keys: 1, heads: 2, kvHeads: 1, dim: 16},
		{batch: 1, queries: 7, keys: 7, heads: 4, kvHeads: 4, dim: 40},
		{batch: 3, queries: 65, keys: 65, heads: 4, kvHeads: 2, dim: 16},
		{batch: 1, queries: 130, keys: 130, heads: 4, kvHeads: 1, dim: 64},
		{batch: 2, queries: 33, keys: 97, heads: 4, kvHeads: 2, dim: 24, Options: Options{QueryOffset: 64}},
		{batch: 2, queries: 70, keys: 51, heads: 3, kvHeads: 1, dim: 80},
		{batch: 1, queries: 45, keys: 81, heads: 2, kvHeads: 2, dim: 128, Options: Options{QueryOffset: 17}},
		{batch: 2, queries: 37, keys: 37, heads: 2, kvHeads: 1, dim: 256},
	} {
		for _, mask := range []Options{{}, {Causal: true}, {Window: 9}, {Window: 20}} {
			for _, scores := range []Options{{}, {SoftCap: 3}, {Scale: 1.3 / math.Sqrt(float64(size.dim))}, {SoftCap: 5, Scale: 0.25}} {
				for _, bias := range [][2]int{{}, {1, 1}, {1, size.heads}, {size.batch, 1}, {size.batch, size.heads}} {
					for _, rate := range []float64{0, 0.3} {
						p := size
						p.Causal, p.Window, p.SoftCap, p.Scale, p.DropoutRate = mask.Causal, mask.Window, scores.SoftCap, scores.Scale, rate
						p.biasBatch, p.biasHeads = bias[0], bias[1]
						all = append(all, p.segmented()...)
					}
				}
			}
		}
	}
	return all
}

// segmented is the problem without segments, with ids that queries and keys share where there are as many, and with ids for
// each.
func (p problem) segmented() []*problem {
	shared, apart := p, p
	shared.ids = documents(p.batch, p.queries)
	apart.ids, apart.kvIDs = shared.ids, keyDocuments(p.batch, p.keys)
	if p.queries != p.keys {
		return []*problem{&p, &apart}
	}
	return []*problem{&p, &shared, &apart}
}

func (p *problem) String() string {
	segments := "none"
	switch {
	case p.kvIDs != nil:
		segments = "apart"
	case p.ids != nil:
		segments = "shared"
	}
	return fmt.Sprintf("%v segments %s bias %d×%d %+v", []int{p.batch, p.queries, p.keys, p.heads, p.kvHeads, p.dim}, segments,
		p.biasBatch, p.biasHeads, p.Options)
}

// variant is a way to compute a problem.
type variant struct {
	dtype dtypes.DType
	route Route
	block int
	saved bool // out and its statistics come from an earlier program
}

// variants of the problem with that number: all dtypes and routes on the Go backend, float32 and one of the others on XLA, which
// compiles for a second and more per program.
func variants(kind backend.Kind, number int) []variant {
	odd := number%2 == 1
	if kind != backend.Go {
		half := variant{dtypes.BFloat16, RouteTiled, 32, number%4 == 0}
		switch {
		case number%3 == 0:
			half = variant{dtypes.Float16, RouteDense, 0, false}
		case odd:
			half = variant{dtypes.Float16, RouteTiled, 32, number%4 == 1}
		}
		return []variant{{dtypes.Float32, RouteTiled, 24, odd}, half}
	}
	return []variant{
		{dtypes.Float32, RouteDense, 0, false},
		{dtypes.Float32, RouteTiled, 32, false},
		{dtypes.Float32, RouteTiled, 24, true},
		{dtypes.BFloat16, RouteTiled, 32, !odd},
		{dtypes.BFloat16, RouteAuto, 0, odd},
		{dtypes.Float16, RouteTiled, 32, odd},
		{dtypes.Float16, RouteDense, 0, false},
	}
}

// TestEveryCombinationAgreesWithFloat64 takes some of the combinations; all of them with LORIS_TEST_LONG=1.
func TestEveryCombinationAgreesWithFloat64(t *testing.T) {
	onBackends(t, func(t *testing.T, d *backend.Device) {
		step := 61 // coprime to the sizes of all axes, so that every value of each comes up
		switch {
		case d.Kind != backend.Go:
			step = 409
		case os.Getenv("LORIS_TEST_LONG") != "":
			step = 1
		}
		all := combinations()
		tried, top := 0, map[dtypes.DType]float64{}
		for i := 0; i < len(all); i += step {
			in := all[i].inputs(uint64(i))
			want := all[i].reference(in)
			for _, v := range variants(d.Kind, i) {
				p := *all[i]
				p.Route, p.BlockQ, p.BlockKV = v.route, v.block, v.block*3/2
				e, name := want.worst(p.compute(t, d, v.dtype, in, v.saved))
				if !(e <= limits[v.dtype]) {
					t.Errorf("%s saved=%v %v: %s is off by %.3g, want at most %g", v.dtype, v.saved, &p, name, e, limits[v.dtype])
				}
				tried, top[v.dtype] = tried+1, max(top[v.dtype], e)
			}
		}
		t.Logf("%d programs; largest error %.2g in float32, %.2g in float16, %.2g in bfloat16", tried, top[dtypes.Float32],
			top[dtypes.Float16], top[dtypes.BFloat16])
	})
}
