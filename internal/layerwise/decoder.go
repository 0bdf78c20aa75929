package layerwise

import (
	"context"
	"errors"
	"fmt"

	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/nn"
)

// Decoder continues several prompts, a token of each at a time, with the keys and values of earlier tokens in a cache.
//
// The rows of the cache end together: shorter ones have padding on the left, which no token sees and which no position
// counts. Rows and lengths are rounded up to a few sizes, and for each there is one set of programs.
type Decoder struct {
	m        *Model
	ends     *ends
	spans    []span
	caches   [][]*tensors.Tensor // per span: k, v [rows, capacity, KVHeads, HeadDim] of each layer
	rows     int                 // of the cache; those behind the prompts are padding
	capacity int
	position int       // where in the cache the next token goes
	left     int       // how many more it has room for
	ids      [][]int32 // of each prompt's row, without padding
}

// NewDecoder reserves room for the prompts, none of them empty, and at most limit tokens after each.
func (m *Model) NewDecoder(adapters []*nn.Weights, prompts [][]int32, limit int) (*Decoder, error) {
	d := &Decoder{m: m, ends: m.endsOf(adapters), spans: spans(m.Layers, adapters, m.spanLayers()), rows: 1, left: limit}
	for d.rows < len(prompts) {
		d.rows *= 2
	}
	for i, p := range prompts {
		if len(p) == 0 {
			return nil, fmt.Errorf("prompt %d has no tokens", i)
		}
		if err := m.checkIDs(p, len(p)); err != nil {
			return nil, fmt.Errorf("prompt %d: %w", i, err)
		}
		d.ids = append(d.ids, append([]int32(nil), p...))
	}
	d.capacity = bucket(bucket(d.longest()) + limit)
	shape := shapes.Make(m.Shape.Compute, d.rows, d.capacity, m.Shape.KVHeads, m.Shape.HeadDim)
	empty := make([]byte, shape.ByteSize())
	for _, sp := range d.spans {
		var kv []*tensors.Tensor
		for range 2 * len(sp.layers) {
			t, err := m.Device.Upload(shape, empty)
			if err != nil {
				return nil, errors.Join(err, backend.Free(kv...), d.Close())
			}
			kv = append(kv, t)
		}
		d.caches = append(d.caches, kv)
	}
	return d, nil
}

// bucket rounds a length up: to 32 or 64, beyond to a quarter of the power of two below it.
func bucket(n int) int {
	size := 32
	for 2*size < n {
		size *= 2
	}
	step := max(32, size/4)
	return (n + step - 1) / step * step
}

// Close frees the cache.
func (d *Decoder) Close() error {
	var errs []error
	for _, kv := range d.caches {
		errs = append(errs, backend.Free(kv...))
	}
	d.caches = nil
	return errors.Join(errs...)
}

// longest is the number of tokens of the longest row.
func (d *Decoder) longest() (n int) {
	for _, row := range d.ids {
		n = max(n, len(row))
	}
	return n
}

// Prefill runs the prompts and returns the logits [prompts][vocab] after each.
func (d *Decoder) Prefill(ctx context.Context) ([][]float32, error) {
	d.position = 0
	return d.run(ctx, min(bucket(d.longest()), d.capacity-d.left))
}

// Next appends a token to each row and returns the logits [prompts][vocab] after it.
func (d *Decoder) Next(ctx context.Context, ids []int32) ([][]float32, error) {
	if len(ids) != len(d.ids) {
		return nil, fmt.Errorf("%d tokens for %d rows", len(ids), len(d.ids))
	}
	if d.left == 0 {
		return nil, fmt.Errorf("one more token after %d does not fit the cache of %d", d.position, d.capacity)
	}
	if err := d.m.checkIDs(ids, 1); err != nil {
		return nil, err
	}
	d.left--
	void := false // the keys in the cache: see nn.Rope.Switch
	for i, id := range ids {
		d.ids[i] = append(d.ids[i], id)
		void = void || d.m.Rope.Switch > 0 && len(d.ids[i]) == d.m.Rope.Switch+1
	}
	if void {
		return d.Prefill(ctx)
	}
	return d.run(ctx, 1)
}

// run computes the last length places of each row, padding included, of which all before are in the cache.
func (d *Decoder) run(ctx context.Context, length int) ([][]float32, error) {
	end := d.position + length
	input, starts := make([]int32, d.rows*length), make([]int32, d.rows)
	for r := range starts {
		starts[r] = int32(end - 1) // a row of padding sees its last place
		if r < len(d.ids) {
			row := d.ids[r]
			starts[r] = int32(end - len(row))
			from := max(0, len(row)-length)
			copy(input[(r+1)*length-(len(row)-from):], row[from:])
		}
	}
	sh, err := d.angles(starts, length)
	defer sh.free()
	if err != nil {
		return nil, err
	}
	at, err := backend.UploadValues(d.m.Device, []int32{int32(d.position)})
	if err != nil {
		return nil, err
	}
	defer at.FinalizeAll()
	start, err := backend.UploadValues(d.m.Device, starts, d.rows)
	if err != nil {
		return nil, err
	}
	defer start.FinalizeAll()
	x, err := d.m.embedWith(d.ends, input, d.rows, length)
	if err != nil {
		return nil, err
	}
	for i := range d.spans {
		if err := ctx.Err(); err != nil {
			return nil, errors.Join(err, backend.Free(x))
		}
		if x, err = d.layers(i, x, at, start, sh); err != nil {
			return nil, err
		}
	}
	d.position = end
	return d.last(x)
}

// angles uploads RoPE's tables of the last length places of each row, whose first token is at starts in the cache. Each
// row has those of its own length, as if it were alone.
func (d *Decoder) angles(starts []int32, length int) (sh shared, err error) {
	var cos, sin []float32
	positions, end := make([]int32, length), int32(d.position+length)
	for _, start := range starts {
		for i := range positions {
			positions[i] = max(0, int32(d.position+i)-start)
		}
		c, s := d.m.Rope.Table(positions, int(end-start))
		cos, sin = append(cos, c...), append(sin, s...)
	}
	width := d.m.Rope.Width()
	if sh.cos, err = backend.UploadValues(d.m.Device, cos, d.rows, length, width); err != nil {
		return sh, err
	}
	sh.sin, err = backend.UploadValues(d.m.Device, sin, d.rows, length, width)
	return sh, err
}

// layers runs one span over x, which it frees, and replaces the span's cache.
func (d *Decoder) layers(i int, x, at, start *tensors.Tensor, sh shared) (*tensors.Tensor, error) {
	sp, m := d.spans[i], d.m
	n := len(d.caches[i])
	in := append(append([]*tensors.Tensor{x, at, start}, sh.inputs(nil)...), d.caches[i]...)
	out, err := m.programs.get(m.Device, "block_decode", sp.key, func(in []*Node) []*Node {
		r := &reader{in}
		x, at, start := r.one(), r.one(), r.one()
		b, _ := r.batch(variant{})
		kv := r.take(n)
		caches := make([]*nn.Cache, len(sp.layers))
		y, _ := m.run(sp, r, b, nil, x, func(i int, l *nn.Layer) {
			caches[i] = &nn.Cache{K: kv[2*i], V: kv[2*i+1], Position: at, Start: start}
			l.WithCache(caches[i])
		})
		out := []*Node{y}
		for _, c := range caches {
			out = append(out, c.K, c.V)
		}
		return out
	}).call(append(in, sp.tensors()...)...)
	if err := errors.Join(err, backend.Free(x)); err != nil {
		return nil, err
	}
	err = backend.Free(d.caches[i]...)
	d.caches[i] = out[1:]
	return out[0], err
}

// last returns the logits of the prompts' rows after the last place of x [rows, length, hidden], which it frees.
func (d *Decoder) last(x *tensors.Tensor) ([][]float32, error) {
	m := d.m
	defer x.FinalizeAll()
	flat, err := m.download("next_token", d.ends.key(), func(in []*Node) *Node {
		return m.scores(d.ends, Squeeze(SliceAxis(in[0], 1, AxisElem(-1)), 1), in[1:])
	}, append([]*tensors.Tensor{x}, m.scoreTensors(d.ends)...)...)
	if err != nil {
		return nil, err
	}
	out := make([][]float32, len(d.ids))
	for i := range out {
		out[i] = flat[i*m.Vocab : (i+1)*m.Vocab : (i+1)*m.Vocab]
	}
	return out, nil
}
