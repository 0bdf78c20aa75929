package attention

import (
	"fmt"
	"slices"
	"testing"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/backend"
)

// documents are ids of two documents, which do not end at tile borders, and padding, 0, behind them.
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

// keyDocuments are ids of keys for the queries of documents: in another order, of other lengths, some of them nobody's.
func keyDocuments(batch, length int) []int32 {
	ids := make([]int32, batch*length)
	for i := range ids {
		b, at := i/length, i%length
		switch {
		case at < length/9:
			ids[i] = 3
		case at < length/2-b:
			ids[i] = 1
		case at >= length/2+length/8:
			ids[i] = 2
		}
	}
	return ids
}

// A document's numbers, results and gradients, are the same to the last bit whatever lies in the others, padding included.
func TestDocumentsDoNotLeak(t *testing.T) {
	onBackends(t, func(t *testing.T, d *backend.Device) {
		for _, x := range []struct {
			route Route
			dtype dtypes.DType
		}{
			{RouteTiled, dtypes.Float32},
			{RouteDense, dtypes.Float32},
			{RouteTiled, dtypes.BFloat16},
			{RouteDense, dtypes.BFloat16},
			{RouteCuDNN, dtypes.BFloat16},
			{RouteCuDNN, dtypes.Float16},
		} {
			for _, causal := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/causal=%v", x.route, x.dtype, causal), func(t *testing.T) {
					// No document is longer than 64 tokens, one tile of cuDNN's: it adds up the tiles of a gradient in any
					// order, and more of them would differ in the last bits from run to run.
					p := &problem{batch: 2, queries: 130, keys: 130, heads: 2, kvHeads: 1, dim: 24, ids: documents(2, 130)}
					p.Options = Options{Causal: causal, Route: x.route, BlockQ: 64, BlockKV: 64}
					if x.route == RouteCuDNN {
						needCuDNN(t, d, p)
						p.MaxSegments = CountSegments(p.ids, p.queries)
					} else {
						p.biasBatch, p.biasHeads, p.DropoutRate = 2, 1, 0.2
					}
					p.checkLeaks(t, d, x.dtype)
				})
			}
		}
	})
}

// checkLeaks changes one document after the other and looks for changes elsewhere.
func (p *problem) checkLeaks(t *testing.T, d *backend.Device, dtype dtypes.DType) {
	exec, err := NewExec(d.Backend, func(in []*Node) []*Node {
		return p.gradients(Attend(in[0], in[1], in[2], p.options(in)), in)
	})
	if err != nil {
		t.Fatal(err)
	}
	run := func(in inputs) [len(resultNames)][]float32 {
		out, err := exec.Call(p.uploads(t, d, dtype, in)...)
		if err != nil {
			t.Fatal(err)
		}
		return download(t, out)
	}
	in := p.inputs(1)
	before := run(in)
	for _, id := range []int32{0, 1, 2} {
		after := run(p.changed(in, id))
		for i, of := range []int{0, 0, 1, 2, 4} {
			changes := false
			for x := range before[i] {
				same := before[i][x] == after[i][x]
				if !same && p.document(of, x, len(in[of])) != id {
					t.Fatalf("element %d of %s changes from %g to %g with document %d", x, resultNames[i], before[i][x], after[i][x], id)
				}
				changes = changes || !same
			}
			if !changes && len(before[i]) > 0 {
				t.Errorf("%s does not depend on document %d at all", resultNames[i], id)
			}
		}
	}
}

// document is the one in which element x of input i, of that size, lies.
func (p *problem) document(i, x, size int) int32 {
	if i == 4 {
		return p.ids[x/p.keys] // the query's; the bias has one head and all rows
	}
	return p.ids[x*len(p.ids)/size]
}

// changed are the inputs with other numbers in a document.
func (p *problem) changed(in inputs, id int32) (out inputs) {
	for i := range in {
		out[i] = slices.Clone(in[i])
		for x := range out[i] {
			if p.document(i, x, len(out[i])) == id {
				out[i][x] = 1 - 3*out[i][x]
			}
		}
	}
	return out
}
