package layerwise

import (
	"context"
	"errors"
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/nn"
)

// Logits runs the model over ids [rows][length] and returns [rows·length·vocab] float32. segments [rows·length] may be
// nil; positions of different segments do not see each other.
func (m *Model) Logits(ctx context.Context, adapters []*nn.Weights, ids, segments []int32, rows, length int) (out []float32, err error) {
	if err := m.checkIDs(ids, length); err != nil {
		return nil, err
	}
	sh, err := m.share(nil, segments, rows, length)
	defer sh.free()
	if err != nil {
		return nil, err
	}
	x, err := m.embed(ids, rows, length)
	if err != nil {
		return nil, err
	}
	for _, sp := range spans(m.Layers, adapters, m.spanLayers()) {
		if err := ctx.Err(); err != nil {
			return nil, errors.Join(err, backend.Free(x))
		}
		in := append(append([]*tensors.Tensor{x}, sh.inputs(nil)...), sp.tensors()...)
		next, err := m.forward(sp, sh, nn.KeepNothing).call(in...)
		if err := errors.Join(err, backend.Free(x)); err != nil {
			return nil, err
		}
		x = next[0]
	}
	defer x.FinalizeAll()
	return m.download("logits", func(in []*Node) *Node { return m.scores(in[0], in[1], in[2]) }, x, m.Norm, m.head())
}

// scores are the head's logits of x [..., hidden] in float32.
func (m *Model) scores(x, norm, head *Node) *Node {
	h := m.Shape.RMSNorm(x, norm)
	logits, _ := m.Logit.apply(ConvertDType(nn.Dense(h, ConvertDType(head, m.Shape.Compute)), dtypes.Float32))
	return logits
}

// download runs a program and reads its float32 result.
func (m *Model) download(name string, build func(in []*Node) *Node, in ...*tensors.Tensor) ([]float32, error) {
	y, err := m.one(name, build, in...)
	if err != nil {
		return nil, err
	}
	defer y.FinalizeAll()
	return tensors.CopyFlatData[float32](y)
}

// Decoder generates from one prompt, token by token, with the keys and values of earlier tokens in a cache.
type Decoder struct {
	m        *Model
	spans    []span
	caches   [][]*tensors.Tensor // per span: k, v of each layer
	capacity int
	position int
	ids      []int32 // what lies in the cache, where it may have to be computed anew: see nn.Rope.Switch
}

// NewDecoder reserves room for capacity tokens.
func (m *Model) NewDecoder(adapters []*nn.Weights, capacity int) (*Decoder, error) {
	d := &Decoder{m: m, spans: spans(m.Layers, adapters, m.spanLayers()), capacity: capacity}
	shape := shapes.Make(m.Shape.Compute, 1, capacity, m.Shape.KVHeads, m.Shape.HeadDim)
	empty := make([]byte, shape.ByteSize())
	for _, sp := range d.spans {
		var kv []*tensors.Tensor
		for range 2 * len(sp.layers) {
			t, err := m.Device.Upload(shape, empty)
			if err != nil {
				return nil, errors.Join(err, d.Close())
			}
			kv = append(kv, t)
		}
		d.caches = append(d.caches, kv)
	}
	return d, nil
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

// padded is the length that a prompt of n tokens is run at, so that few shapes are compiled.
func (d *Decoder) padded(n int) int {
	if n == 1 {
		return 1
	}
	size := 32
	for size < n {
		size *= 2
	}
	return min(size, d.capacity-d.position)
}

// Next appends ids to what was generated so far and returns the logits [vocab] after the last of them.
func (d *Decoder) Next(ctx context.Context, ids []int32) ([]float32, error) {
	if len(ids) == 0 || d.position+len(ids) > d.capacity {
		return nil, fmt.Errorf("%d more tokens after %d do not fit the cache of %d", len(ids), d.position, d.capacity)
	}
	if err := d.m.checkIDs(ids, len(ids)); err != nil {
		return nil, err
	}
	ids = d.rerun(ids)
	length := d.padded(len(ids))
	input, positions := make([]int32, length), make([]int32, length)
	copy(input, ids)
	for i := range positions { // padding has no position of its own
		positions[i] = int32(d.position + min(i, len(ids)-1))
	}
	sh, err := d.m.share(positions, nil, 1, length)
	defer sh.free()
	if err != nil {
		return nil, err
	}
	at, err := backend.UploadValues(d.m.Device, []int32{int32(d.position)})
	if err != nil {
		return nil, err
	}
	defer at.FinalizeAll()
	x, err := d.m.embed(input, 1, length)
	if err != nil {
		return nil, err
	}
	for i := range d.spans {
		if err := ctx.Err(); err != nil {
			return nil, errors.Join(err, backend.Free(x))
		}
		if x, err = d.layers(i, x, at, sh); err != nil {
			return nil, err
		}
	}
	d.position += len(ids)
	return d.last(x, len(ids)-1)
}

// rerun returns what is to be computed to append ids: those before them too, where the keys in the cache are void.
func (d *Decoder) rerun(ids []int32) []int32 {
	at := d.m.Rope.Switch
	if at == 0 {
		return ids
	}
	was := d.position
	d.ids = append(d.ids[:was], ids...)
	if was > 0 && was <= at && len(d.ids) > at {
		d.position = 0
		return d.ids
	}
	return ids
}

// layers runs one span over x, which it frees, and replaces the span's cache.
func (d *Decoder) layers(i int, x, at *tensors.Tensor, sh shared) (*tensors.Tensor, error) {
	sp, m := d.spans[i], d.m
	n := len(d.caches[i])
	in := append(append([]*tensors.Tensor{x, at}, sh.inputs(nil)...), d.caches[i]...)
	out, err := m.programs.get(m.Device, "block_decode", sp.key, func(in []*Node) []*Node {
		r := &reader{in}
		x, at := r.one(), r.one()
		b, _ := r.batch(variant{})
		kv := r.take(n)
		caches := make([]*nn.Cache, len(sp.layers))
		y, _ := m.run(sp, r, b, nil, x, func(i int, l *nn.Layer) {
			caches[i] = &nn.Cache{K: kv[2*i], V: kv[2*i+1], Position: at}
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

// last returns the logits after position i of x, which it frees.
func (d *Decoder) last(x *tensors.Tensor, i int) ([]float32, error) {
	m := d.m
	defer x.FinalizeAll()
	at, err := backend.UploadValues(m.Device, []int32{0, int32(i)}, 1, 2)
	if err != nil {
		return nil, err
	}
	defer at.FinalizeAll()
	return m.download("next_token", func(in []*Node) *Node {
		return m.scores(Gather(in[0], in[1]), in[2], in[3])
	}, x, at, m.Norm, m.head())
}
