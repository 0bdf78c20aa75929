package layerwise

import (
	"errors"

	"github.com/loris-ml/loris/internal/seam"
)

// Profile runs a function, such as a training step, and returns what ran on the device meanwhile; for benchmarks. It needs
// a backend that was opened through the seam.
func (m *Model) Profile(run func() error) ([]seam.Execution, error) {
	p, ok := seam.Of(m.Device.Backend)
	if !ok {
		return nil, errors.New("profile: the backend was not opened through the seam; use xla:cuda")
	}
	return p.Profile(run)
}

// Profile is that of the session's model.
func (s *Session) Profile(run func() error) ([]seam.Execution, error) { return s.model.Profile(run) }
