package layerwise

import (
	"fmt"
	"math"
	"strconv"
)

// scaler scales the loss in float16, as torch.amp.GradScaler does (arXiv:1710.03740): a step whose gradients are not finite
// is left out and halves the scale; a run of steps without one doubles it.
//
// The scale is that of the mean loss, as torch's is; gradients here are of the sum. So they are multiplied by the scale over
// the number of labels in the step's first batch.
type scaler struct {
	scale   float64
	good    int     // steps since the scale changed last
	labels  float64 // of the step's first batch; 0: it has none yet
	skipped bool    // the last step was left out
}

// torch.amp.GradScaler's defaults.
const (
	initScale      = 65536
	growthInterval = 2000
)

func newScaler() *scaler { return &scaler{scale: initScale} }

// factor is what the gradients of the step are multiplied by, of which a batch with so many labels is the next.
func (l *scaler) factor(labels int) float64 {
	if l.labels == 0 {
		l.labels = math.Max(1, float64(labels))
	}
	return l.scale / l.labels
}

// next begins a step: the sums of the last one are gone.
func (l *scaler) next() {
	if l != nil {
		l.labels = 0
	}
}

// judge takes note of a step's gradient norm, and tells whether it may be applied.
func (l *scaler) judge(norm float64) bool {
	l.skipped = math.IsNaN(norm) || math.IsInf(norm, 0)
	switch {
	case l.skipped:
		l.scale, l.good = l.scale/2, 0
	case l.good+1 == growthInterval:
		l.scale, l.good = l.scale*2, 0
	default:
		l.good++
	}
	return !l.skipped
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
