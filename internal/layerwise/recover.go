package layerwise

import (
	"errors"
	"fmt"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
)

// On a GPU, calls return before the device is done, and what fails there is told later. A session therefore keeps the
// values before its last update until the gradient norm of the next step, which depends on all of the new ones, has
// been read.

// retire frees the values before the last update and keeps old in their place.
func (s *Session) retire(old [][]*tensors.Tensor) error {
	var errs []error
	for _, ts := range s.old {
		errs = append(errs, backend.Free(ts...))
	}
	s.old = old
	return errors.Join(errs...)
}

// recovered leaves the session usable after a failed step: it waits for the device, drops the gradients, and takes the
// last update back if that is what failed. It returns err, with that said.
func (s *Session) recovered(err error) error {
	_ = s.model.Device.Sync() // the failure that err tells of, once more
	if e := s.DropGradients(); e != nil {
		err = errors.Join(err, e)
	}
	if s.old == nil || s.healthy() {
		return err
	}
	_ = s.model.Device.Sync()
	for i, g := range s.all() {
		if len(g.params) > 0 {
			_ = backend.Free(g.exchange(s.old[i])...)
		}
	}
	s.old = nil
	s.steps--
	return fmt.Errorf("%w (optimizer step %d, which it spoiled, was taken back)", err, s.steps+1)
}

// healthy reports whether all trainable values and moments are there.
func (s *Session) healthy() bool {
	for _, g := range s.all() {
		if len(g.params) == 0 {
			continue
		}
		q, err := s.model.squares(append(append(g.values(), g.m...), g.v...))
		if err != nil {
			return false
		}
		_, err = tensors.CopyFlatData[float32](q)
		if errors.Join(err, backend.Free(q)) != nil {
			return false
		}
	}
	return true
}
