package attention

import (
	"fmt"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/backend"
)

// needCuDNN skips the test where there is no GPU that has the kernels for the problem.
func needCuDNN(t *testing.T, d *backend.Device, p *problem) {
	t.Helper()
	if d.Kind != backend.CUDA {
		t.Skip("it needs a CUDA backend: LORIS_TEST_BACKENDS=xla:cuda,tf32=false")
	}
	gpu := capabilityOf(d.Backend)
	if gpu.major < 8 || p.dim > maxDim && !gpu.isHopper() || p.ids != nil && !gpu.packs() {
		t.Skipf("a GPU of compute capability %s has no kernel for it", gpu)
	}
}

// TestCuDNNAgreesWithFloat64 runs where LORIS_TEST_BACKENDS names a GPU; -v prints the errors.
func TestCuDNNAgreesWithFloat64(t *testing.T) {
	onBackends(t, func(t *testing.T, d *backend.Device) {
		needCuDNN(t, d, &problem{})
		for i, p := range cudnnProblems() {
			t.Run(p.String(), func(t *testing.T) {
				t.Parallel()
				needCuDNN(t, d, p)
				in := p.inputs(uint64(i))
				want := p.reference(in)
				for _, dtype := range []dtypes.DType{dtypes.BFloat16, dtypes.Float16} {
					for _, saved := range []bool{false, true} {
						t.Run(fmt.Sprintf("%s/saved=%v", dtype, saved), func(t *testing.T) {
							got := p.compute(t, d, dtype, in, saved)
							for j, name := range resultNames {
								if len(got[j]) == 0 {
									continue
								}
								e := want.error(j, got[j])
								t.Logf("%-5s %.2e", name, e)
								if !(e <= limits[dtype]) {
									t.Errorf("%s is off by %.3g, want at most %g", name, e, limits[dtype])
								}
							}
						})
					}
				}
			})
		}
	})
}

// cudnnProblems are what the cuDNN route takes, of lengths that no tile divides.
func cudnnProblems() (all []*problem) {
	masks := []Options{{}, {Causal: true}, {Window: 20}}
	for _, dim := range []int{64, 128} {
		for _, mask := range masks {
			for _, ids := range [][]int32{nil, documents(3, 150), manyDocuments()} {
				all = append(all, &problem{batch: 3, queries: 150, keys: 150, heads: 8, kvHeads: 2, dim: dim, ids: ids, Options: mask})
			}
		}
	}
	for _, dim := range []int{160, 192, 256} {
		for _, mask := range masks {
			for _, ids := range [][]int32{nil, documents(2, 150)} {
				all = append(all, &problem{batch: 2, queries: 150, keys: 150, heads: 4, kvHeads: 2, dim: dim, ids: ids, Options: mask})
			}
		}
	}
	for _, p := range []problem{
		{batch: 1, queries: 34, keys: 34, heads: 4, kvHeads: 1, dim: 16, Options: Options{Causal: true, Scale: 0.5}},
		{batch: 2, queries: 262, keys: 262, heads: 4, kvHeads: 4, dim: 40, Options: Options{Window: 33}},
		{batch: 2, queries: 98, keys: 98, heads: 6, kvHeads: 2, dim: 80, ids: documents(2, 98), Options: Options{Causal: true, Scale: 0.2}},
		{batch: 1, queries: 202, keys: 202, heads: 8, kvHeads: 1, dim: 96, ids: documents(1, 202), Options: Options{Window: 20}},
		{batch: 1, queries: 10, keys: 10, heads: 3, kvHeads: 3, dim: 96, Options: Options{Causal: true}},
		{batch: 1, queries: 130, keys: 130, heads: 5, kvHeads: 1, dim: 128, Options: Options{Scale: 0.115}},
		{batch: 1, queries: 262, keys: 262, heads: 8, kvHeads: 1, dim: 256, ids: documents(1, 262), Options: Options{Causal: true, Scale: 0.1}},
		{batch: 1, queries: 10, keys: 10, heads: 2, kvHeads: 1, dim: 256, Options: Options{Causal: true}},
		// As many keys as queries are not needed without a window.
		{batch: 2, queries: 98, keys: 150, heads: 4, kvHeads: 4, dim: 64},
		{batch: 2, queries: 98, keys: 150, heads: 4, kvHeads: 2, dim: 256, Options: Options{Causal: true}},
		{batch: 2, queries: 150, keys: 98, heads: 4, kvHeads: 1, dim: 80, Options: Options{Causal: true}},
		// One document a row, of which cuDNN is told all the same.
		{batch: 2, queries: 150, keys: 150, heads: 4, kvHeads: 2, dim: 64, ids: make([]int32, 2*150), Options: Options{Causal: true}},

		{batch: 3, queries: 150, keys: 150, heads: 8, kvHeads: 2, dim: 64, biasBatch: 1, biasHeads: 8, Options: Options{Causal: true}},
		{batch: 3, queries: 150, keys: 150, heads: 8, kvHeads: 2, dim: 64, biasBatch: 3, biasHeads: 1},
		{batch: 3, queries: 150, keys: 150, heads: 8, kvHeads: 2, dim: 64, biasBatch: 3, biasHeads: 8},
		{batch: 3, queries: 150, keys: 150, heads: 8, kvHeads: 2, dim: 64, biasBatch: 1, biasHeads: 1, Options: Options{Causal: true}},
		{batch: 2, queries: 66, keys: 98, heads: 4, kvHeads: 1, dim: 128, biasBatch: 2, biasHeads: 1, Options: Options{Scale: 0.05}},
	} {
		all = append(all, &p)
	}
	for _, p := range all {
		p.Route, p.MaxSegments = RouteCuDNN, CountSegments(p.ids, p.queries)
	}
	return all
}

// manyDocuments are ids of three rows of 150 tokens: of 1, 2, 9, 37 and 50 and padding, of one document, and of five that
// are single tokens but for the last.
func manyDocuments() []int32 {
	ids := make([]int32, 3*150)
	for b, lengths := range [][]int{{1, 2, 9, 37, 50}, {150}, {1, 1, 1, 1, 146}} {
		at := 150 * b
		for id, n := range lengths {
			for range n {
				ids[at] = int32(id + 1)
				at++
			}
		}
	}
	return ids
}

func TestWhatCuDNNIsTestedWithItTakes(t *testing.T) {
	d := open(t)
	for _, p := range cudnnProblems() {
		for _, dtype := range []dtypes.DType{dtypes.BFloat16, dtypes.Float16} {
			g := NewGraph(d.Backend, "problem")
			var in []*Node
			for i := range inputNames {
				if i != 4 || p.biasBatch > 0 {
					in = append(in, Zeros(g, shapes.Make(dtype, p.dimensions(i)...)))
				}
			}
			if p.ids != nil {
				in = append(in, Zeros(g, shapes.Make(dtypes.Int32, p.batch, p.queries)))
			}
			if why := newCall(in[0], in[1], in[2], p.options(in)).whyNotOn(capability{9, 0}); why != "" {
				t.Errorf("%v: %s", p, why)
			}
		}
	}
}
