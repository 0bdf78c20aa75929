package attention

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
)

// problem is a use of attention with what Options says in nodes said in numbers.
type problem struct {
	batch, queries, keys, heads, kvHeads, dim int
	ids                                       []int32 // document of each query; nil: no segments
	kvIDs                                     []int32 // document of each key; nil: as of the queries, of which there are as many
	biasBatch, biasHeads                      int     // first axes of the bias; 0: no bias
	Options
}

// The inputs and what attention makes of them, in order.
var (
	inputNames  = [...]string{"q", "k", "v", "gradient of out", "bias"}
	resultNames = [...]string{"out", "dq", "dk", "dv", "dBias"}
)

type inputs [len(inputNames)][]float32

func (p *problem) group() int { return p.heads / p.kvHeads }

func (p *problem) dimensions(i int) []int {
	switch i {
	case 1, 2:
		return []int{p.batch, p.keys, p.kvHeads, p.dim}
	case 4:
		return []int{p.biasBatch, p.biasHeads, p.queries, p.keys}
	}
	return []int{p.batch, p.queries, p.heads, p.dim}
}

// inputs are random and rounded to bfloat16, so that every dtype starts from the same.
func (p *problem) inputs(seed uint64) (in inputs) {
	random := rand.New(rand.NewPCG(seed, 7))
	for i := range in {
		n := 1
		for _, d := range p.dimensions(i) {
			n *= d
		}
		in[i] = make([]float32, n)
		for j := range in[i] {
			in[i][j] = math.Float32frombits(math.Float32bits(float32(random.NormFloat64())) &^ 0xffff)
		}
	}
	return in
}

// biasAt is where the bias of a score lies.
func (p *problem) biasAt(b, h, i, j int) int {
	return ((b%p.biasBatch*p.biasHeads+h%p.biasHeads)*p.queries+i)*p.keys + j
}

func (p *problem) sees(b, i, j int) bool {
	at := i + p.QueryOffset
	switch {
	case (p.Causal || p.Window > 0) && j > at, p.Window > 0 && j <= at-p.Window:
		return false
	case p.ids != nil:
		of := p.kvIDs
		if of == nil {
			of = p.ids
		}
		return p.ids[b*p.queries+i] == of[b*p.keys+j]
	}
	return true
}

// rowKey is the dropout key of a batch's row in these tests.
func rowKey(b int) uint32 { return 0x9e3779b9 * uint32(b+1) }

// mix is the finalizer of MurmurHash3 on the host.
func mix(x uint32) uint32 {
	x ^= x >> 16
	x *= 0x85ebca6b
	x ^= x >> 13
	x *= 0xc2b2ae35
	return x ^ x>>16
}

// factor is 0 for a weight that dropout drops, and what it grows by otherwise.
func (p *problem) factor(b, h, i, j int) float64 {
	if p.DropoutRate == 0 {
		return 1
	}
	row := mix(mix(uint32(h*p.queries+i)) + mix(rowKey(b)))
	if mix(mix(uint32(j))+row) < uint32(math.Round(p.DropoutRate*(1<<15)))<<17 {
		return 0
	}
	return 1 / (1 - p.DropoutRate)
}

// expected are out, dq, dk, dv and dBias in float64. dq, dk and dBias are sums over the gradients of scores, each its weight times
// a difference, that of the weight's own gradient, dOut·v, and the row's mean; terms are the squares of the products in dOut·v,
// as they go into each sum, added up.
type expected struct {
	results [len(resultNames)][]float64
	terms   [len(resultNames)]float64
	few     bool // keys: the difference may be much smaller than its sides
}

// reference computes what is expected, score by score.
func (p *problem) reference(in inputs) *expected {
	r := &expected{few: p.keys < 16}
	for i, j := range []int{0, 0, 1, 2, 4} {
		r.results[i] = make([]float64, len(in[j]))
	}
	for b := range p.batch {
		for h := range p.heads {
			for i := range p.queries {
				p.referenceRow(r, in, b, h, i)
			}
		}
	}
	return r
}

func (p *problem) referenceRow(r *expected, in inputs, b, h, i int) {
	q, k, v, dOut := in[0], in[1], in[2], in[3]
	scale := p.Scale
	if scale == 0 {
		scale = 1 / math.Sqrt(float64(p.dim))
	}
	qa := ((b*p.queries+i)*p.heads + h) * p.dim
	key := func(j int) int { return ((b*p.keys+j)*p.kvHeads + h/p.group()) * p.dim }
	w, slope, sum := make([]float64, p.keys), make([]float64, p.keys), 0.0
	for j := range p.keys {
		if !p.sees(b, i, j) {
			continue
		}
		x := 0.0
		for c := range p.dim {
			x += float64(q[qa+c]) * float64(k[key(j)+c])
		}
		x, slope[j] = x*scale, scale
		if p.SoftCap > 0 {
			th := math.Tanh(x / p.SoftCap)
			x, slope[j] = p.SoftCap*th, scale*(1-th*th)
		}
		if p.biasBatch > 0 {
			x += float64(in[4][p.biasAt(b, h, i, j)])
		}
		w[j] = math.Exp(x)
		sum += w[j]
	}
	if sum == 0 {
		return
	}
	dw, squares, mean := make([]float64, p.keys), make([]float64, p.keys), 0.0
	for j := range w {
		w[j] /= sum
		f := p.factor(b, h, i, j)
		for c := range p.dim {
			product := f * float64(dOut[qa+c]) * float64(v[key(j)+c])
			dw[j], squares[j] = dw[j]+product, squares[j]+product*product
			r.results[0][qa+c] += w[j] * f * float64(v[key(j)+c])
			r.results[3][key(j)+c] += w[j] * f * float64(dOut[qa+c])
		}
		mean += w[j] * dw[j]
	}
	for j := range w {
		ds, square := w[j]*(dw[j]-mean), w[j]*w[j]*squares[j]
		if p.biasBatch > 0 {
			r.results[4][p.biasAt(b, h, i, j)] += ds
			r.terms[4] += square
		}
		for c := range p.dim {
			dq, dk := slope[j]*float64(k[key(j)+c]), slope[j]*float64(q[qa+c])
			r.results[1][qa+c] += ds * dq
			r.results[2][key(j)+c] += ds * dk
			r.terms[1] += square * dq * dq
			r.terms[2] += square * dk * dk
		}
	}
}

// uploads returns the arguments of the problem's programs: q, k, v, gradient of out, then what there is of bias, ids, keys' ids, dropout keys.
func (p *problem) uploads(t testing.TB, d *backend.Device, dtype dtypes.DType, in inputs) (args []any) {
	t.Helper()
	add := func(x *tensors.Tensor, err error) {
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, x)
	}
	for i := range in {
		if len(in[i]) > 0 {
			add(backend.UploadFloats(d, dtype, in[i], p.dimensions(i)...))
		}
	}
	if p.ids != nil {
		add(backend.UploadValues(d, p.ids, p.batch, p.queries))
	}
	if p.kvIDs != nil {
		add(backend.UploadValues(d, p.kvIDs, p.batch, p.keys))
	}
	if p.DropoutRate > 0 {
		keys := make([]uint32, p.batch)
		for b := range keys {
			keys[b] = rowKey(b)
		}
		add(backend.UploadValues(d, keys, p.batch))
	}
	return args
}

// options are those of the problem, with the nodes of its programs.
func (p *problem) options(in []*Node) Options {
	o, rest := p.Options, in[4:]
	take := func() *Node {
		n := rest[0]
		rest = rest[1:]
		return n
	}
	if p.biasBatch > 0 {
		o.Bias = take()
	}
	if p.ids != nil {
		o.SegmentIDs = take()
	}
	if p.kvIDs != nil {
		o.KVSegmentIDs = take()
	}
	if p.DropoutRate > 0 {
		o.DropoutKeys = take()
	}
	return o
}

// gradients returns out and the gradients of q, k, v and the bias of the program's inputs.
func (p *problem) gradients(out *Node, in []*Node) []*Node {
	of := in[:3:3]
	if p.biasBatch > 0 {
		of = append(of, in[4])
	}
	return append([]*Node{out}, Gradient(ReduceAllSum(ConvertDType(Mul(out, in[3]), dtypes.Float32)), of...)...)
}

// compute returns out, dq, dk, dv and dBias: in one program, or with out and lse from an earlier one.
func (p *problem) compute(t *testing.T, d *backend.Device, dtype dtypes.DType, in inputs, saved bool) (r [len(resultNames)][]float32) {
	t.Helper()
	args := p.uploads(t, d, dtype, in)
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
			out, lse := Forward(in[0], in[1], in[2], p.options(in))
			return []*Node{out, lse}
		}, args...)
		n := len(args)
		out = run(func(in []*Node) []*Node {
			return p.gradients(FromSaved(in[0], in[1], in[2], in[n], in[n+1], p.options(in)), in)
		}, append(args, kept[0], kept[1])...)
	} else {
		out = run(func(in []*Node) []*Node { return p.gradients(Attend(in[0], in[1], in[2], p.options(in)), in) }, args...)
	}
	return download(t, out)
}

func download(t *testing.T, out []*tensors.Tensor) (r [len(resultNames)][]float32) {
	t.Helper()
	for i := range out {
		var err error
		if r[i], err = backend.DownloadFloats(out[i]); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// error is how far result i, got, lies from what is expected, in parts of the length of that. With a few keys this would ask for
// digits that are not there, as rounding acts on both sides of the difference: for a query that sees a single key they are
// equal, and the gradient is nothing but their rounding; two or three keys leave little more. There the length is at least
// half of what the terms would make if none took from another.
func (e *expected) error(i int, got []float32) float64 {
	diff, norm := 0.0, 0.0
	for x, want := range e.results[i] {
		d := float64(got[x]) - want
		diff, norm = diff+d*d, norm+want*want
	}
	if e.few {
		norm = max(norm, e.terms[i]/4)
	}
	if norm == 0 {
		return math.Sqrt(diff) // nobody sees anything, or all weights are dropped
	}
	return math.Sqrt(diff / norm)
}

// worst is the largest error of the results, and which it is.
func (e *expected) worst(got [len(resultNames)][]float32) (top float64, name string) {
	for i := range got {
		if len(e.results[i]) == 0 {
			continue
		}
		if x := e.error(i, got[i]); !(x <= top) {
			top, name = x, resultNames[i]
		}
	}
	return top, name
}
