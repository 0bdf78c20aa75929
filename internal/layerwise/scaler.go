package layerwise

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
)

// scaler scales the loss in float16, as torch.amp.GradScaler does (arXiv:1710.03740): a step whose gradients are not finite
// is left out and halves the scale; a run of steps without one doubles it.
//
// The scale is that of the mean loss, as torch's is; gradients here are of the sum. So each batch's are multiplied by the scale over
// its own size in tokens, whatever its place in the step. Its labels would not do: in a batch with one label among a step's
// thousands, that token's gradients would be thousands of times what they are in torch, and overflow. Where few tokens have labels
// the factor is smaller than torch's by their share, which float16 has the room for: in 4,096 tokens gradients are multiplied by
// 16 to begin with. The size is rounded up to a power of two, so that multiplying and dividing by it is exact.
type scaler struct {
	scaling
	before  scaling // that of before the last update
	size    float64 // of the step's first batch, in whose factor gradients are summed; 0: there is none yet
	skipped bool    // the last step was left out
}

// scaling is what follows from the steps done.
type scaling struct {
	scale float64
	good  int // steps since the scale changed last
}

// torch.amp.GradScaler's defaults.
const (
	initScale      = 65536
	growthInterval = 2000
)

func newScaler() *scaler { return &scaler{scaling: scaling{scale: initScale}} }

// sized is the size of a batch of so many tokens.
func sized(tokens int) float64 { return math.Ldexp(1, bits.Len(uint(tokens-1))) }

// factor is what the gradients of a batch of so many tokens are multiplied by.
func (l *scaler) factor(tokens int) float64 { return l.scale / sized(tokens) }

// weight is what they are multiplied by again when they are added to the step's sums.
func (l *scaler) weight(tokens int) float64 {
	if l.size == 0 {
		l.size = sized(tokens)
	}
	return sized(tokens) / l.size
}

// summed is what the step's sums are multiplied by.
func (l *scaler) summed() float64 { return l.scale / max(1, l.size) }

// next begins a step: the sums of the last one are gone.
func (l *scaler) next() {
	if l != nil {
		l.size = 0
	}
}

// note takes note of a step that stands: it was applied, or left out because its gradients were not finite.
func (l *scaler) note(applied bool) {
	if l == nil {
		return
	}
	l.before, l.skipped = l.scaling, !applied
	switch {
	case l.skipped:
		l.scaling = scaling{scale: l.scale / 2}
		l.before = l.scaling // it updated nothing
	case l.good+1 == growthInterval:
		l.scaling = scaling{scale: l.scale * 2}
	default:
		l.good++
	}
}

// takeBack forgets the last update.
func (l *scaler) takeBack() {
	if l != nil {
		l.scaling = l.before
	}
}

// weight is what the pass's gradients are multiplied by when they are added to the step's sums; nil: 1.
func (s *Session) weight(p *pass) (*tensors.Tensor, error) {
	if s.scaler == nil {
		return nil, nil
	}
	w := s.scaler.weight(p.tokens())
	if w == 1 {
		return nil, nil
	}
	return backend.UploadValues(s.model.Device, []float32{float32(w)})
}

// LossScale is by how much the mean loss is scaled, 1 where it is not; skipped tells whether the last step was left out
// because its gradients were not finite.
func (s *Session) LossScale() (scale float64, skipped bool) {
	if s.scaler == nil {
		return 1, false
	}
	return s.scaler.scale, s.scaler.skipped
}

// String is what a saved state says of it.
func (l *scaler) String() string { return fmt.Sprintf("%g %d", l.scale, l.good) }

// parseScaler reads String's result.
func parseScaler(text string) (*scaler, error) {
	l := newScaler()
	if n, err := fmt.Sscanf(text, "%g %d", &l.scale, &l.good); n != 2 || !(l.scale > 0) || math.IsInf(l.scale, 0) || l.good < 0 {
		return nil, fmt.Errorf("loss scale %s: want a positive number and a number of steps (%v)", strconv.Quote(text), err)
	}
	return l, nil
}
