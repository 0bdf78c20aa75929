//go:build cgo

package layerwise_test

import (
	"testing"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/models"
)

// The scale of the loss and the steps since it changed are part of a session's state: they are those of the steps that stand.
func TestStepsThatFailDoNotCountForTheLossScale(t *testing.T) {
	reference.OnXLA(t, 16, func(t *testing.T, spec string, p *seam.Plugin) {
		w := watch(t, p)
		m, a := trainee(t, models.Options{Backend: spec, DType: models.Float16}, 0)
		s := session(t, m, a, settings)
		layerwise.SetLossScale(s, 1024) // so that no step is left out
		c := newCourse(t, s, 5)
		for name, f := range map[string]seam.Fault{
			"the update fails at once": {Program: "adamw", Text: "the device is ill"},
			"the update fails late":    {Program: "adamw", Late: true, Text: "the device is ill"},
			"the norm fails late":      {Program: "norm", Late: true, Text: "the device is ill"},
		} {
			t.Run(name, func(t *testing.T) {
				c.t = t
				c.disturb(w, f)
			})
		}
	})
}
