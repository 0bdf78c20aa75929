package layerwise

import (
	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/backend"
)

// fewSegments is the least that is promised, so that batches of few documents share their programs.
const fewSegments = 8

// promisedSegments is what attention is told of the segments of a batch, as attention.Options.MaxSegments: on CUDA, whose
// cuDNN then takes them, a power of two, on which programs depend; 0 elsewhere and where there is nothing to promise.
func promisedSegments(kind backend.Kind, segments []int32, length int) int {
	if kind != backend.CUDA {
		return 0
	}
	n := attention.CountSegments(segments, length)
	if n == 0 {
		return 0
	}
	return max(n, fewSegments)
}
