package layerwise

import "github.com/loris-ml/loris/internal/training"

// PinHost lets a session keep residuals in that many bytes of the host's memory.
func PinHost(s training.Session, bytes int64) { s.(*Session).plan.host = bytes }

// OnHost is how many spans' residuals a session keeps in the host's memory.
func OnHost(s training.Session) (n int) {
	for _, plan := range s.(*Session).plan.plans {
		for _, span := range plan {
			if span.host {
				n++
			}
		}
	}
	return n
}
