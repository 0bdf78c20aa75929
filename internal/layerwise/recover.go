package layerwise

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
)

// On a GPU, calls return before the device is done, and what fails there is told later. A session therefore keeps the
// values before its last update until the gradient norm of the next step, which depends on all of the new ones, has
// been read.

// retire throws the values before the last update away and keeps old in their place.
func (s *Session) retire(old [][]*tensors.Tensor) {
	for _, ts := range s.old {
		s.trash = append(s.trash, ts...)
	}
	s.old = old
}

// recovered leaves the session usable after a step that failed with err, whose other values are freed: it waits for the
// device, drops the gradients, and takes the last update back if that is what failed. It returns err, with that said
// and, where memory was short, with what helps.
func (s *Session) recovered(err error) error {
	if s.ranks != nil {
		defer func() { s.ranks.TakeBack(s.steps) }()
	}
	late := s.model.Device.Sync()
	dropped := errors.Join(s.DropGradients(), s.sweep())
	s.dropAhead() // its uploads may be what failed
	if !s.spoiled(true) {
		return errors.Join(withRemedy(err), dropped)
	}
	switch {
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		// A step that is taken back is no mere cancellation: the caller believes it done.
		err = cmp.Or(late, errDevice)
	case late != nil && !strings.Contains(err.Error(), late.Error()):
		err = fmt.Errorf("%w; before that: %w", err, late)
	}
	return errors.Join(fmt.Errorf("%w (optimizer step %d, which it spoiled, was taken back)", withRemedy(err), s.steps), dropped, s.takeBack())
}

// spoiled reports whether the last update failed, where something has failed on the device or, as far as values tell, not.
func (s *Session) spoiled(failed bool) bool {
	if s.old == nil {
		return false
	}
	for _, g := range s.all() {
		if len(g.params) > 0 && witness(g) != nil || failed && s.paged && s.lost(g.state) {
			return true
		}
	}
	return false
}

// witness reads of what an update gave a group the smallest result of each program that had a part in it: one made all values and
// moments, and another made E of all triplets anew.
func witness(g *group) error {
	if err := readable(smallest(g.values())); err != nil {
		return err
	}
	if _, at := g.triplets(); len(at) > 0 {
		return readable(*g.params[at[0][2]].at)
	}
	return nil
}

// lost reads moments that lie in the host's memory, where each was copied to by itself.
func (s *Session) lost(moments []*tensors.Tensor) bool {
	for _, t := range moments {
		if s.near(t, readable) != nil {
			_ = s.model.Device.Sync() // else the next step tells the failure of this copy
			return true
		}
	}
	return false
}

func smallest(ts []*tensors.Tensor) *tensors.Tensor {
	return slices.MinFunc(ts, func(a, b *tensors.Tensor) int { return cmp.Compare(a.Size(), b.Size()) })
}

// readable waits for a tensor, of whatever dtype, and tells whether what made it failed.
func readable(t *tensors.Tensor) error {
	if !t.HasLocal() {
		defer t.FinalizeLocal()
	}
	return t.ConstBytes(func([]byte) {})
}

// takeBack puts the values before the last update in place again.
func (s *Session) takeBack() error {
	spoiled := s.exchange(s.old)
	s.old = nil
	s.steps--
	s.scaler.takeBack()
	return freeAll(spoiled)
}

// confirm waits for the last update and lets go of the values before it, where the next step would rather have their
// memory than the millisecond.
func (s *Session) confirm() error {
	if err := s.settled(); err != nil {
		return err
	}
	s.retire(nil)
	return s.sweep()
}

// Steps is how many optimizer steps are done, without those that were taken back.
func (s *Session) Steps() int { return s.steps }

// settled waits for the last update, which nothing has read yet, and takes it back if it failed.
func (s *Session) settled() error {
	if s.old == nil {
		return nil
	}
	err := s.model.Device.Sync()
	if !s.spoiled(err != nil) {
		return nil // an error is another session's
	}
	return s.recovered(cmp.Or(err, errDevice))
}

// errDevice stands for an error that was told to another session on the device.
var errDevice = errors.New("an asynchronous execution failed")

// withRemedy says what to do about an error where that is known.
func withRemedy(err error) error {
	if !backend.OutOfMemory(err) {
		return err
	}
	return fmt.Errorf("%w; the device has too little memory for this batch: make it smaller (PerDeviceTrainBatchSize, MaxLength) or keep less for the backward pass (ResidualBudget)", err)
}
