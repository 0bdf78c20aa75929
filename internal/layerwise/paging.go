package layerwise

import (
	"errors"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/seam"
)

// Moments of paged optimizers lie in pinned memory of the host between updates. A group's are copied to the device for its
// update and, new, back to the host behind it, while neighbouring groups are updated. bitsandbytes has the CUDA driver move
// pages of them when the device is full; here they always are away, so that the residual budget has their room. Where the
// device is the host, there is nowhere to go.

// pagesAhead is for how many groups the host launches copies ahead of the device: what is launched has its memory.
const pagesAhead = 2

// page moves a group's moments from the device to where they are to lie.
func (s *Session) page(g *group) error {
	if !s.paged || len(g.state) == 0 {
		return nil
	}
	if err := s.pace(g); err != nil {
		return err
	}
	far, err := s.model.copyTo("pinned_host", g.state)
	if err != nil {
		return err
	}
	near := g.state
	g.state = far
	return backend.Free(near...)
}

// updated is g.update, which takes the moments from where they lie, and leaves the new ones there.
func (s *Session) updated(g *group, scalars, scale *tensors.Tensor) (fresh []*tensors.Tensor, err error) {
	if !s.paged || len(g.state) == 0 {
		return g.update(s.model, s.optim, s.bound, scalars, scale)
	}
	if err := s.pace(g); err != nil {
		return nil, err
	}
	far := g.state
	if g.state, err = s.model.copyTo("device", far); err != nil {
		g.state = far
		return nil, err
	}
	fresh, err = g.update(s.model, s.optim, s.bound, scalars, scale)
	err = errors.Join(err, backend.Free(g.state...))
	g.state = far
	if err != nil {
		return nil, errors.Join(err, backend.Free(fresh...))
	}
	values, near := fresh[:len(g.params)], fresh[len(g.params):]
	if far, err = s.model.copyTo("pinned_host", near); err != nil {
		return nil, errors.Join(err, backend.Free(fresh...))
	}
	return append(values[:len(values):len(values)], far...), backend.Free(near...)
}

// pace waits until the device is at most pagesAhead groups behind.
func (s *Session) pace(g *group) error {
	plugin, ok := seam.Of(s.model.Device.Backend)
	if !ok {
		return nil
	}
	return plugin.Limit(pagesAhead, 2*pagesAhead*len(g.state))
}

// near calls a function with a tensor on the device: t, or a copy of it where moments lie elsewhere.
func (s *Session) near(t *tensors.Tensor, visit func(*tensors.Tensor) error) error {
	if !s.paged {
		return visit(t)
	}
	here, err := s.model.copyTo("device", []*tensors.Tensor{t})
	if err != nil {
		return err
	}
	return errors.Join(visit(here[0]), backend.Free(here...))
}

// pageable says whether a paged optimizer's moments of so many bytes have room in what the session may take of the host's
// memory: twice, since those before the last update are kept until it is known to have succeeded.
func (s *Session) pageable(bytes int64) bool { return s.optim.Paged && 2*bytes <= s.plan.host }

// momentBytes is what the session's moments take.
func (s *Session) momentBytes() (n int64) {
	for _, g := range s.all() {
		for _, p := range g.params {
			for _, h := range s.optim.state(p) {
				n += int64(h.shape.ByteSize())
			}
		}
	}
	return n
}
