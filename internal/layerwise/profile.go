package layerwise

import (
	"errors"

	"github.com/loris-ml/loris/internal/seam"
)

// Profile runs a function, such as a step, and returns what ran on the device meanwhile; for benchmarks. It needs a
// backend that was opened through the seam.
func (s *Session) Profile(run func() error) ([]seam.Execution, error) {
	p, ok := seam.Of(s.model.Device.Backend)
	if !ok {
		return nil, errors.New("profile: the backend was not opened through the seam; use xla:cuda")
	}
	return p.Profile(run)
}
