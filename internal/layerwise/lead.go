package layerwise

import (
	"slices"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
)

// When a step's gradient norm has been read the device is all but done with it, and would wait for the host to return from
// Apply, to be called again and to launch the next step. So where the next batch is known, the spans that come first are
// launched behind the update, before the norm is read.

// leadSpans is how many: they keep a GPU busy for some milliseconds.
const leadSpans = 2

// lead launches the first spans of the batch that Prefetch has moved to the device. Where that is not to be had, or memory is too
// short for it, MicroStep does it. Another failure MicroStep tells.
func (s *Session) lead() {
	p := s.ahead
	if p == nil || s.leads == 0 {
		return
	}
	if plan := s.plan.plans[[2]int{p.batch.Rows, p.batch.Length}]; plan == nil || !full(plan) {
		return // memory is short, or has not been counted yet
	}
	err := p.begin()
	for err == nil && p.done < min(s.leads, len(s.spans)) {
		err = p.span()
	}
	p.with = p.weights()
	if err == nil {
		return
	}
	s.dropAhead()
	if backend.OutOfMemory(err) {
		s.leads = 0
		return
	}
	s.missed = err
}

// weights are those of the spans behind the pass.
func (p *pass) weights() (all []*tensors.Tensor) {
	for _, sp := range p.s.spans[:p.done] {
		all = append(all, sp.tensors()...)
	}
	return all
}

// renew begins the forward pass anew if the weights are others than those that the spans launched ahead had.
func (p *pass) renew() error {
	if slices.Equal(p.with, p.weights()) {
		return nil
	}
	old := p.x[1:]
	for i := range p.done {
		old, p.kept[i] = append(old, p.kept[i]...), nil
	}
	p.x, p.done = p.x[:1], 0
	return backend.Free(old...)
}
