package layerwise

import (
	"context"
	"errors"
	"math/rand/v2"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/training"
)

// MicroStep runs forward and backward over a batch and adds the gradients of its summed cross entropy to those summed
// since the last Apply. After an error the session can go on, with the sums as before where the batch itself was
// refused, else empty.
func (s *Session) MicroStep(ctx context.Context, b *training.Batch) (training.Stats, error) {
	p, err := s.begin(ctx, b, true)
	if err != nil {
		return training.Stats{}, err
	}
	defer p.free()
	err = p.forward(ctx)
	if err == nil {
		err = p.backward(ctx)
	}
	if err == nil {
		err = s.collect(p)
	}
	if err != nil {
		return training.Stats{}, s.recovered(err)
	}
	st, err := p.stats() // waits for the head only: the backward pass is still running
	if err != nil {
		return st, s.recovered(err)
	}
	return st, nil
}

// Evaluate runs forward over a batch, without dropout, and scores it.
func (s *Session) Evaluate(ctx context.Context, b *training.Batch) (training.Stats, error) {
	p, err := s.begin(ctx, b, false)
	if err != nil {
		return training.Stats{}, err
	}
	defer p.free()
	err = p.forward(ctx)
	if err != nil {
		return training.Stats{}, s.recovered(err)
	}
	st, err := p.stats()
	if err != nil {
		return st, s.recovered(err)
	}
	return st, nil
}

// pass is one batch on its way through the layers.
type pass struct {
	s      *Session
	train  bool
	keep   []nn.Keep // per span
	ids    []int32
	labels int // positions with a label
	sh     shared
	lab    *tensors.Tensor

	x       []*tensors.Tensor   // input of each span, and the last one's output
	kept    [][]*tensors.Tensor // per span
	dx      *tensors.Tensor     // gradient at the place the backward pass has reached
	scalars []*tensors.Tensor   // see lossOutputs
	grads   [][]*tensors.Tensor // per span
	ends    []*tensors.Tensor   // of norm and head
}

func (s *Session) begin(ctx context.Context, b *training.Batch, train bool) (*pass, error) {
	if err := errors.Join(ctx.Err(), checkBatch(b)); err != nil {
		return nil, err
	}
	p := &pass{s: s, train: train, ids: b.IDs, keep: make([]nn.Keep, len(s.spans))}
	if train {
		p.keep = s.plan.keep(s.model, s.spans, b.Rows, b.Length)
	}
	for _, l := range b.Labels {
		if l != IgnoreIndex {
			p.labels++
		}
	}
	p.kept, p.grads = make([][]*tensors.Tensor, len(s.spans)), make([][]*tensors.Tensor, len(s.spans))
	var keys []uint32
	if train && s.dropout {
		keys = rowKeys(s.seed, s.steps, b)
	}
	var err error
	if p.sh, err = s.model.share(b.Positions, b.Segments, keys, b.Rows, b.Length); err == nil {
		p.lab, err = backend.UploadValues(s.model.Device, b.Labels, b.Rows, b.Length)
	}
	if err == nil {
		var x *tensors.Tensor
		x, err = s.model.embed(b.IDs, b.Rows, b.Length)
		p.x = append(p.x, x)
	}
	if err != nil {
		p.free()
		return nil, err
	}
	return p, nil
}

// rowKeys are the rows' random streams, keyed by seed, step and row alone.
func rowKeys(seed int64, step int, b *training.Batch) []uint32 {
	keys := make([]uint32, b.Rows)
	for i := range keys {
		row := uint64(i)
		if len(b.RowSeeds) == b.Rows {
			row = b.RowSeeds[i]
		}
		keys[i] = uint32(rand.NewPCG(uint64(seed), uint64(step)<<32^row).Uint64())
	}
	return keys
}

func (p *pass) forward(ctx context.Context) error {
	m := p.s.model
	for i, sp := range p.s.spans {
		if err := ctx.Err(); err != nil {
			return err
		}
		in := append(append([]*tensors.Tensor{p.x[i]}, p.sh.inputs(p.s.index[i])...), sp.tensors()...)
		out, err := m.forward(sp, p.sh, p.keep[i]).call(in...)
		if err != nil {
			return err
		}
		p.x, p.kept[i] = append(p.x, out[0]), out[1:]
		if !p.train {
			if err := backend.Free(p.x[i]); err != nil {
				return err
			}
			p.x[i] = nil
		}
	}
	out, err := m.loss(p.train).call(p.x[len(p.s.spans)], p.lab, m.Norm, m.head())
	if err != nil {
		return err
	}
	p.scalars = out[:lossOutputs]
	if p.train {
		p.dx, p.ends = out[lossOutputs], out[lossOutputs+1:]
	}
	return nil
}

// backward walks the spans in reverse; what a span no longer needs is freed behind it.
func (p *pass) backward(ctx context.Context) error {
	m := p.s.model
	for i := len(p.s.spans) - 1; i >= 0; i-- {
		if err := ctx.Err(); err != nil {
			return err
		}
		sp := p.s.spans[i]
		in := append([]*tensors.Tensor{p.x[i], p.dx}, p.sh.inputs(p.s.index[i])...)
		in = append(append(in, p.kept[i]...), sp.tensors()...)
		out, err := m.backward(sp, p.sh, p.keep[i], len(p.kept[i])).call(in...)
		if err != nil {
			return err
		}
		old := append(p.kept[i], p.x[i+1], p.dx)
		p.dx, p.grads[i], p.kept[i], p.x[i+1] = out[0], out[1:], nil, nil
		if err := backend.Free(old...); err != nil {
			return err
		}
	}
	return nil
}

// collect adds the pass's gradients to the session's sums.
func (s *Session) collect(p *pass) error {
	if s.ends != nil {
		grads, err := s.model.endGradients(p)
		if err != nil {
			return err
		}
		if err := s.ends.accumulate(s.model, grads); err != nil {
			return err
		}
	}
	for i, g := range s.groups {
		if err := g.accumulate(s.model, p.grads[i]); err != nil {
			return err
		}
		p.grads[i] = nil
	}
	return nil
}

// stats reads the scalars.
func (p *pass) stats() (st training.Stats, err error) {
	var v [lossOutputs]float64
	for i, t := range p.scalars {
		f, err := tensors.CopyFlatData[float32](t)
		if err != nil {
			return st, err
		}
		v[i] = float64(f[0])
	}
	return training.Stats{LossSum: v[0], EntropySum: v[1], Correct: int(v[2]), Labels: p.labels}, nil
}

// free releases what the pass still holds.
func (p *pass) free() {
	ts := append([]*tensors.Tensor{p.lab, p.dx}, p.x...)
	ts = append(append(ts, p.scalars...), p.ends...)
	for i := range p.kept {
		ts = append(append(ts, p.kept[i]...), p.grads[i]...)
	}
	backend.Free(ts...)
	p.sh.free()
}
