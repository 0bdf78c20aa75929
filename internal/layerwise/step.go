package layerwise

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/training"
)

// MicroStep runs forward and backward over a batch and adds the gradients of its summed cross entropy to those summed
// since the last Apply. After an error the session can go on, with the sums as before where the batch itself was
// refused, else empty.
func (s *Session) MicroStep(ctx context.Context, b *training.Batch) (training.Stats, error) {
	return s.through(ctx, b, true)
}

// Evaluate runs forward over a batch, without dropout, and scores it. Errors are as MicroStep's.
func (s *Session) Evaluate(ctx context.Context, b *training.Batch) (training.Stats, error) {
	return s.through(ctx, b, false)
}

func (s *Session) through(ctx context.Context, b *training.Batch, train bool) (training.Stats, error) {
	if err := errors.Join(ctx.Err(), s.checkBatch(b)); err != nil {
		return training.Stats{}, err
	}
	st, err := s.pass(ctx, b, train)
	if err != nil {
		return training.Stats{}, s.recovered(err)
	}
	return st, nil
}

// pass takes a batch through the layers. When it returns, nothing but gradients is left on the device.
func (s *Session) pass(ctx context.Context, b *training.Batch, train bool) (training.Stats, error) {
	if s.missed != nil && train {
		return training.Stats{}, s.missed
	}
	p := s.ahead
	if p != nil && p.given == b && train {
		s.ahead = nil
	} else {
		p = s.newPass(b, train)
	}
	defer p.free()
	err := p.begin()
	if err == nil {
		err = p.forward(ctx)
	}
	if err == nil {
		err = p.score()
	}
	if err == nil && train {
		err = p.backward(ctx)
	}
	if err == nil && train {
		err = s.collect(p)
	}
	if err != nil {
		return training.Stats{}, err
	}
	return p.stats() // waits for the head only: the backward pass is still running
}

// pass is one batch on its way through the layers.
type pass struct {
	s      *Session
	given  *training.Batch
	batch  *training.Batch // given, with virtual tokens before its rows
	train  bool
	begun  bool
	done   int               // spans behind it in the forward pass
	with   []*tensors.Tensor // which these spans had as weights, if they were launched ahead
	plan   []spanPlan
	labels int // positions with a label
	sh     shared
	lab    *tensors.Tensor

	x      []*tensors.Tensor   // input of each span, and the last one's output
	kept   [][]*tensors.Tensor // per span
	left   []*tensors.Tensor   // on the device, of what has been copied to the host last
	dx     *tensors.Tensor     // gradient at the place the backward pass has reached, [rows, length, hidden] or with room behind
	scores []*tensors.Tensor   // see lossOutputs
	grads  [][]*tensors.Tensor // per span
	ends   []*tensors.Tensor   // of norm and head
}

func (s *Session) newPass(given *training.Batch, train bool) *pass {
	n, b := len(s.spans), s.edge.widen(given)
	p := &pass{s: s, given: given, batch: b, train: train, plan: make([]spanPlan, n), kept: make([][]*tensors.Tensor, n), grads: make([][]*tensors.Tensor, n)}
	for i := range p.plan {
		p.plan[i].tokens = tokensAtOnce(b.Length, s.plan.mlp)
	}
	p.labels = training.CountLabels(b.Labels)
	return p
}

// Prefetch moves the batch to the device. Until MicroStep has taken it, b must stay as it is.
func (s *Session) Prefetch(b *training.Batch) error {
	if err := s.checkBatch(b); err != nil {
		return err
	}
	s.dropAhead()
	s.ahead = s.newPass(b, true)
	if err := s.ahead.upload(); err != nil {
		return s.recovered(err)
	}
	return nil
}

func (s *Session) dropAhead() {
	if s.ahead != nil {
		s.ahead.free()
		s.ahead = nil
	}
	s.missed = nil
}

// upload moves to the device what no update changes.
func (p *pass) upload() (err error) {
	m, b := p.s.model, p.batch
	if p.sh, err = m.share(b.Positions, b.Segments, b.Rows, b.Length); err != nil {
		return err
	}
	if p.lab, err = backend.UploadValues(m.Device, b.Labels, b.Rows, b.Length); err != nil || m.Trainable || p.s.edge.trainsEmbedding() {
		return err
	}
	return p.embed()
}

func (p *pass) embed() error {
	x, err := p.s.model.embedWith(p.s.edge, p.batch.IDs, p.batch.Rows, p.batch.Length)
	p.x = append(p.x, x)
	return err
}

// begin moves to the device what is not there yet.
func (p *pass) begin() (err error) {
	if p.begun {
		return p.renew()
	}
	p.begun = true
	s, b := p.s, p.batch
	if p.lab == nil {
		if err := p.upload(); err != nil {
			return err
		}
	}
	if p.train && s.dropout {
		if p.sh.rowKeys, err = backend.UploadValues(s.model.Device, rowKeys(s.seed, s.steps, b), b.Rows); err != nil {
			return err
		}
	}
	if len(p.x) == 0 {
		if err := p.embed(); err != nil {
			return err
		}
	}
	if p.train && s.noise > 0 {
		if err := p.addNoise(); err != nil {
			return err
		}
	}
	if p.train {
		p.plan, err = s.plan.plan(s, p)
	}
	return err
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

// sweepAfter is the span behind which the device has enough to do for a while.
const sweepAfter = 2

// forward walks the spans that are not behind it.
func (p *pass) forward(ctx context.Context) error {
	for p.done < len(p.s.spans) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := p.span(); err != nil {
			return err
		}
		if p.done > sweepAfter {
			if err := p.s.sweepFor(1 + len(p.s.spans) - p.done); err != nil {
				return err
			}
		}
	}
	return errors.Join(p.s.sweep(), p.leave())
}

// span takes the batch through one more.
func (p *pass) span() error {
	i, sp := p.done, p.s.spans[p.done]
	in := append(append([]*tensors.Tensor{p.x[i]}, p.sh.inputs(p.s.index[i])...), sp.tensors()...)
	out, err := p.s.model.forward(sp, p.sh, p.plan[i]).call(in...)
	if err != nil {
		return err
	}
	p.done++
	p.x, p.kept[i] = append(p.x, out[0]), out[1:]
	if p.train && (i == 0 || !p.plan[i].passes) { // the first input is what a forward pass begins with anew
		return p.offload(i)
	}
	x := p.x[i]
	p.x[i] = nil
	return backend.Free(x)
}

// score takes what comes out of the last span through the head.
func (p *pass) score() error {
	m := p.s.model
	in := append([]*tensors.Tensor{p.x[len(p.s.spans)], p.lab}, m.scoreTensors(p.s.edge)...)
	if p.train && m.scaled() {
		scale, err := backend.UploadValues(m.Device, []float32{float32(p.s.scaler.factor(p.tokens()))})
		if err != nil {
			return err
		}
		defer backend.Free(scale)
		in = append(in, scale)
	}
	dropout := p.sh.rowKeys != nil && p.s.edge.drops()
	if dropout {
		in = append(in, p.sh.rowKeys)
	}
	out, err := m.loss(p.s.loss, p.s.edge, p.train, dropout).call(in...)
	if err != nil {
		return err
	}
	p.scores = out[:lossOutputs]
	if p.train {
		p.dx, p.ends = out[lossOutputs], out[lossOutputs+1:]
	}
	return nil
}

// backward walks the spans in reverse, to the first that trains anything; what a span no longer needs is freed behind it.
func (p *pass) backward(ctx context.Context) error {
	m := p.s.model
	for i := len(p.s.spans) - 1; i >= p.s.first; i-- {
		if err := ctx.Err(); err != nil {
			return err
		}
		sp := p.s.spans[i]
		if err := p.fetch(i); err != nil {
			return err
		}
		in := append([]*tensors.Tensor{p.x[i], p.dx}, p.sh.inputs(p.s.index[i])...)
		in = append(append(in, p.kept[i]...), sp.tensors()...)
		dy := p.dx
		p.dx = nil // the program takes it, or it is freed below
		last := p.s.endsAt(i)
		out, err := m.backward(sp, p.sh, p.plan[i], len(p.kept[i]), last).call(in...)
		if err != nil {
			return errors.Join(err, backend.Free(dy))
		}
		if !last {
			p.dx, out = out[0], out[1:]
		}
		old := append(p.kept[i], p.x[i+1], dy)
		p.grads[i], p.kept[i], p.x[i+1] = out, nil, nil
		if err := backend.Free(old...); err != nil {
			return err
		}
	}
	return nil
}

// endsAt tells whether the backward pass ends at the adapters of span i, at whose input nobody takes the gradient: what is in
// front of it is frozen.
func (s *Session) endsAt(i int) bool {
	return i == s.first && s.edge == nil && !s.model.Trainable && s.spans[i].trains()
}

// collect adds the pass's gradients to the session's sums.
func (s *Session) collect(p *pass) error {
	weight, err := s.weight(p)
	if err != nil {
		return err
	}
	defer backend.Free(weight)
	if s.ends != nil && !s.edge.encodes() {
		gradients := s.model.endGradients
		if s.edge != nil {
			gradients = func(p *pass) ([]*tensors.Tensor, error) { return s.model.adapterGradients(s.edge, p) }
		}
		grads, err := gradients(p)
		if err == nil {
			err = s.ends.accumulate(s.model, grads, weight)
		}
		if err != nil {
			return errors.Join(err, backend.Free(grads...))
		}
	}
	if s.prompt != nil {
		grads, err := s.model.promptGradient(s.edge, p)
		if err == nil {
			err = s.prompt.accumulate(s.model, grads, weight)
		}
		if err != nil {
			return errors.Join(err, backend.Free(grads...))
		}
	}
	n := s.model.groupSpans()
	for i, g := range s.groups {
		spans := p.grads[i*n : min((i+1)*n, len(p.grads))]
		if err := g.accumulate(s.model, slices.Concat(spans...), weight); err != nil {
			return err
		}
		clear(spans)
	}
	return nil
}

// stats reads the scores.
func (p *pass) stats() (st training.Stats, err error) {
	var rows [lossOutputs][]float32
	for i, t := range p.scores {
		if rows[i], err = tensors.CopyFlatData[float32](t); err != nil {
			return st, err
		}
	}
	of := func(from, to int) (st training.Stats) {
		for r := from; r < to; r++ {
			st.LossSum += float64(rows[0][r])
			st.EntropySum += float64(rows[1][r])
			st.Correct += int(rows[2][r])
		}
		return st
	}
	st = of(0, p.batch.Rows)
	st.Labels = p.labels
	at := 0
	for _, n := range p.batch.Joined {
		part := of(at, at+n)
		part.Labels = training.CountLabels(p.batch.Labels[at*p.batch.Length : (at+n)*p.batch.Length])
		st.Joined = append(st.Joined, part)
		at += n
	}
	return st, nil
}

// free releases what the pass still holds.
func (p *pass) free() {
	ts := append(append([]*tensors.Tensor{p.lab, p.dx}, p.x...), p.left...)
	ts = append(append(ts, p.scores...), p.ends...)
	for i := range p.kept {
		ts = append(append(ts, p.kept[i]...), p.grads[i]...)
	}
	backend.Free(ts...)
	p.sh.free()
}
