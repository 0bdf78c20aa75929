package layerwise

import (
	"testing"

	"github.com/loris-ml/loris/internal/backend"
)

func TestSegmentsArePromisedToCUDAByPowersOfTwo(t *testing.T) {
	for _, x := range []struct {
		kind     backend.Kind
		segments []int32
		want     int
	}{
		{backend.CUDA, []int32{1, 1, 2, 0}, 8},
		{backend.CUDA, []int32{1, 2, 20, 0}, 32},
		{backend.CUDA, []int32{1, 2, 1, 0}, 0},
		{backend.CUDA, nil, 0},
		{backend.Go, []int32{1, 1, 2, 0}, 0},
	} {
		if got := promisedSegments(x.kind, x.segments, 4); got != x.want {
			t.Errorf("%v %v: %d, want %d", x.kind, x.segments, got, x.want)
		}
	}
}
