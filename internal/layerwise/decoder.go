package layerwise

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

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
	m             *Model
	ends          *ends
	prompts, next []span                    // the layers in programs for prompts, and for a token each
	caches        []*tensors.Tensor         // k, v [rows, capacity, KVHeads, HeadDim] of each layer; nil before Prefill, and after a program has failed
	stacks        map[int][]*tensors.Tensor // by the first layer of a span of next: its adapters, see nn.Layer.Stack
	rows          int                       // of the cache; those behind the prompts are padding
	capacity      int
	position      int               // where in the cache the next token goes
	left          int               // how many more it has room for
	ids           [][]int32         // of each prompt's row, without padding
	starts        []int32           // where in the cache each row begins
	start         *tensors.Tensor   // starts on the device
	ahead         *place            // of the next token, or nil
	result        []*tensors.Tensor // see last
}

// place is what programs must know of the places that they compute.
type place struct {
	at *tensors.Tensor // the first one's position in the cache, int32 scalar
	sh shared
}

func (p *place) free() {
	if p != nil {
		p.sh.free()
		backend.Free(p.at)
	}
}

// NewDecoder prepares to continue the prompts, none of them empty, by at most limit tokens each.
func (m *Model) NewDecoder(adapters []*nn.Weights, prompts [][]int32, limit int) (*Decoder, error) {
	d := &Decoder{
		m: m, ends: m.endsOf(adapters), prompts: spans(m.Layers, adapters, m.spanLayers()), next: spans(m.Layers, adapters, m.stepLayers()), rows: 1, left: limit,
	}
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
		d.ids = append(d.ids, d.ends.widened(append([]int32(nil), p...), len(p), virtualID))
	}
	d.capacity = bucket(bucket(d.longest()) + limit)
	if adapters != nil && m.Shape.Fused(m.Device.Backend) {
		if err := d.stack(); err != nil {
			return nil, errors.Join(err, d.Close())
		}
	}
	return d, nil
}

// stack prepares the adapters for a token each.
func (d *Decoder) stack() (err error) {
	d.stacks = map[int][]*tensors.Tensor{}
	for _, sp := range d.next {
		if !slices.ContainsFunc(sp.layers, func(l layer) bool { return len(l.adapter.Layout.Adapters()) > 0 }) {
			continue
		}
		stacked := d.m.programs.get(d.m.Device, "adapter_stack", sp.key, func(in []*Node) (out []*Node) {
			r := &reader{in}
			for _, sl := range sp.layers {
				l := nn.NewLayer(d.m.Shape, nn.Batch{}, nil)
				sl.bind(l, r)
				out = append(out, l.Stack()...)
			}
			return out
		})
		if d.stacks[sp.first], err = stacked.call(sp.tensors()...); err != nil {
			return err
		}
	}
	return nil
}

// stepLayers is how many layers run per call for one token of each row: on a GPU about eight, so that launching takes less
// time than computing and the first launch does not take long.
func (m *Model) stepLayers() int {
	n := m.spanLayers()
	if m.Device.Kind != backend.CUDA || n >= 4 {
		return n
	}
	for n := 8; n >= 4; n-- {
		if len(m.Layers)%n == 0 {
			return n
		}
	}
	return min(8, len(m.Layers))
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
	d.ahead.free()
	errs := []error{backend.Free(d.caches...), backend.Free(d.result...), backend.Free(d.start)}
	for _, ts := range d.stacks {
		errs = append(errs, backend.Free(ts...))
	}
	d.caches, d.result, d.start, d.ahead, d.stacks = nil, nil, nil, nil, nil
	return errors.Join(errs...)
}

// longest is the number of tokens of the longest row.
func (d *Decoder) longest() (n int) {
	for _, row := range d.ids {
		n = max(n, len(row))
	}
	return n
}

// Prefill runs the prompts; Logits and Likeliest then tell what comes after each.
func (d *Decoder) Prefill(ctx context.Context) error {
	d.ahead.free()
	err := errors.Join(backend.Free(d.caches...), backend.Free(d.start))
	d.caches, d.start, d.ahead, d.position = make([]*tensors.Tensor, 2*len(d.m.Layers)), nil, nil, 0
	length := min(bucket(d.longest()), d.capacity-d.left)
	d.starts = make([]int32, d.rows)
	input := make([]int32, d.rows*length)
	for r := range d.starts {
		d.starts[r] = int32(length - 1) // a row of padding begins with its last place
		if r < len(d.ids) {
			d.starts[r] = int32(length - len(d.ids[r]))
			copy(input[(r+1)*length-len(d.ids[r]):], d.ids[r])
		}
	}
	if err == nil {
		d.start, err = backend.UploadValues(d.m.Device, d.starts, d.rows)
	}
	if err != nil {
		return err
	}
	return d.run(ctx, input, length)
}

// Next appends a token to each row; Logits and Likeliest then tell what comes after it.
func (d *Decoder) Next(ctx context.Context, ids []int32) error {
	if len(ids) != len(d.ids) {
		return fmt.Errorf("%d tokens for %d rows", len(ids), len(d.ids))
	}
	if d.left == 0 {
		return fmt.Errorf("one more token after %d does not fit the cache of %d", d.position, d.capacity)
	}
	if err := d.m.checkIDs(ids, 1); err != nil {
		return err
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
	input := make([]int32, d.rows)
	copy(input, ids)
	return d.run(ctx, input, 1)
}

// run computes length places of each row, input [rows·length]; all before are in the cache.
func (d *Decoder) run(ctx context.Context, input []int32, length int) (err error) {
	if d.caches == nil {
		return errors.New("there is no cache: call Prefill first, or again after an error")
	}
	p := d.ahead
	if d.ahead = nil; p == nil {
		p, err = d.place(length)
	}
	defer p.free()
	if err != nil {
		return err
	}
	x, err := d.m.embedWith(d.ends, input, d.rows, length)
	if err != nil {
		return err
	}
	spans := d.next
	if d.position == 0 {
		spans = d.prompts
	}
	for _, sp := range spans {
		if err := ctx.Err(); err != nil {
			return errors.Join(err, backend.Free(x))
		}
		if x, err = d.layers(sp, x, p); err != nil {
			return err
		}
	}
	d.position += length
	if err := d.last(x); err != nil || d.left == 0 {
		return err
	}
	d.ahead, err = d.place(1) // while the device works
	return err
}

// place uploads what belongs to the next length places: RoPE's tables are those of each row's own length, as if it were
// alone.
func (d *Decoder) place(length int) (_ *place, err error) {
	var cos, sin []float32
	positions, end := make([]int32, length), int32(d.position+length)
	for _, start := range d.starts {
		for i := range positions {
			positions[i] = max(0, int32(d.position+i)-start)
		}
		c, s := d.m.Rope.Table(positions, int(end-start))
		cos, sin = append(cos, c...), append(sin, s...)
	}
	p, width := &place{}, d.m.Rope.Width()
	defer func() {
		if err != nil {
			p.free()
		}
	}()
	if p.sh.cos, err = backend.UploadValues(d.m.Device, cos, d.rows, length, width); err != nil {
		return nil, err
	}
	if p.sh.sin, err = backend.UploadValues(d.m.Device, sin, d.rows, length, width); err != nil {
		return nil, err
	}
	if p.at, err = backend.UploadValues(d.m.Device, []int32{int32(d.position)}); err != nil {
		return nil, err
	}
	return p, nil
}

// layers runs a span over x, which it frees, and extends the caches of its layers, in their memory where the backend has
// donation; over prompts it makes them.
func (d *Decoder) layers(sp span, x *tensors.Tensor, p *place) (*tensors.Tensor, error) {
	m, first, n := d.m, 2*sp.first, 2*len(sp.layers)
	caches, stacks, donate := d.caches[first:first+n], d.stacks[sp.first], make([]int, n)
	name, key := "block_decode", sp.key
	for i := range donate {
		donate[i] = i
	}
	if d.position == 0 {
		name, key = "block_prefill", fmt.Sprint(d.capacity, sp.key)
		caches, stacks, donate = nil, nil, nil
	}
	in := append(append([]*tensors.Tensor{}, caches...), x, p.at, d.start)
	in = append(append(append(in, p.sh.inputs(nil)...), stacks...), sp.tensors()...)
	out, err := m.programs.get(m.Device, name, key, func(in []*Node) []*Node {
		r := &reader{in}
		kv := r.take(len(caches))
		x, at, start := r.one(), r.one(), r.one()
		b, _ := r.batch(variant{})
		after, stacked := make([]*nn.Cache, len(sp.layers)), &reader{r.take(len(stacks))}
		y, _ := m.run(sp, r, b, nil, x, func(i int, l *nn.Layer) {
			after[i] = &nn.Cache{Position: at, Start: start, Capacity: d.capacity}
			if len(kv) > 0 {
				after[i].K, after[i].V = kv[2*i], kv[2*i+1]
			}
			l.WithCache(after[i])
			if len(stacks) > 0 {
				l.UseStack(stacked.take(l.Stacked()))
			}
		})
		out := []*Node{y}
		for _, c := range after {
			out = append(out, c.K, c.V)
		}
		return out
	}, donate...).call(in...)
	if err != nil { // whether the caches are still there is not known
		err = errors.Join(err, backend.Free(x), backend.Free(d.caches...))
		d.caches = nil
		return nil, err
	}
	err = errors.Join(backend.Free(x), backend.Free(caches...))
	copy(d.caches[first:], out[1:])
	return out[0], err
}

// last computes what follows the last place of x [rows, length, hidden], which it frees: logits [rows, vocab] and the
// likeliest token [rows], -1 where a logit is not a number below infinity.
func (d *Decoder) last(x *tensors.Tensor) error {
	m := d.m
	out, err := m.programs.get(m.Device, "next_token", d.ends.key(), func(in []*Node) []*Node {
		logits := m.scores(d.ends, Squeeze(SliceAxis(in[0], 1, AxisElem(-1)), 1), in[1:])
		infinite := AddScalar(ZerosLike(logits), math.Inf(1))
		numbers := Where(Equal(logits, logits), logits, infinite)
		ids := ArgMax(numbers, -1) // not where a logit equals the largest: computed again, it may be rounded differently
		finite := LessThan(ReduceMax(numbers, -1), Squeeze(SliceAxis(infinite, 1, AxisElem(0)), -1))
		return []*Node{logits, Where(finite, ids, AddScalar(ZerosLike(ids), -1))}
	}).call(append([]*tensors.Tensor{x}, m.scoreTensors(d.ends)...)...)
	err = errors.Join(err, backend.Free(x), backend.Free(d.result...))
	d.result = out
	return err
}

// Logits returns the logits [prompts][vocab] after each row.
func (d *Decoder) Logits() ([][]float32, error) {
	flat, err := tensors.CopyFlatData[float32](d.result[0])
	if err != nil {
		return nil, err
	}
	out := make([][]float32, len(d.ids))
	for i := range out {
		out[i] = flat[i*d.m.Vocab : (i+1)*d.m.Vocab : (i+1)*d.m.Vocab]
	}
	return out, nil
}

// Likeliest returns the token with the largest logit after each row, the first of several. ok is false if a logit is not
// a number below infinity; Logits tells which.
func (d *Decoder) Likeliest() (ids []int32, ok bool, err error) {
	if ids, err = tensors.CopyFlatData[int32](d.result[1]); err != nil {
		return nil, false, err
	}
	ids = ids[:len(d.ids)]
	return ids, !slices.Contains(ids, -1), nil
}
