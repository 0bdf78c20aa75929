package attention

import (
	"fmt"
	"math"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"

	"github.com/loris-ml/loris/internal/seam"
)

// What cuDNN is given. XLA translates whatever it is handed, and where cuDNN has no kernel for it the program does not
// compile, so this says no in every doubt: another route always does.

const (
	// maxDim is the largest head_dim whose gradient cuDNN has on every GPU, maxDimHopper on those of compute capability
	// 9.x, from cuDNN 9.5 on, which is older than what XLA's plugins ask for. GPUs before them do the forward alone with
	// more than 128, and later ones the backward with some sizes only, of some versions.
	maxDim, maxDimHopper = 128, 256

	// packedStatistics is how many bytes the statistics of packed documents, which cuDNN keeps apart, may take while it
	// runs.
	packedStatistics = 2 << 30
)

// capability is the compute capability of a GPU.
type capability struct{ major, minor int }

func (g capability) String() string { return fmt.Sprintf("%d.%d", g.major, g.minor) }

// isHopper tells whether the GPU is an H100, an H200 or their like.
func (g capability) isHopper() bool { return g.major == 9 }

// packs tells whether the GPU has packed documents' gradient in every cuDNN that plugins come with: data centers' GPUs from
// Hopper on. Others got it in 9.18.1.
func (g capability) packs() bool { return g.major == 9 || g.major == 10 }

// capabilityOf is that of the backend's GPUs; 8.0, which promises the least, where the plugin does not tell.
func capabilityOf(b compute.Backend) capability {
	if p, ok := seam.Of(b); ok {
		if major, minor, err := p.ComputeCapability(0); err == nil && major > 0 {
			return capability{major, minor}
		}
	}
	return capability{8, 0}
}

func isCUDA(b compute.Backend) bool {
	p, ok := seam.Of(b)
	return ok && seam.Available(b) && p.IsCUDA()
}

// whyNotCuDNN says what keeps a call from the cuDNN route; "" if nothing does.
func (c *call) whyNotCuDNN(b compute.Backend) string {
	if !isCUDA(b) {
		return "the backend is not CUDA opened through the seam"
	}
	return c.whyNotOn(capabilityOf(b))
}

// whyNotOn is whyNotCuDNN on a GPU of that compute capability.
func (c *call) whyNotOn(gpu capability) string {
	switch {
	case gpu.major < 8:
		return fmt.Sprintf("it needs compute capability 8.0, and the GPU's is %s", gpu)
	case c.dtype == dtypes.Float32:
		return "it takes bfloat16 and float16 only"
	case c.SoftCap > 0:
		return "it has no soft cap"
	case c.DropoutRate > 0:
		return "its dropout has one mask for all steps, fixed when the program is compiled"
	case c.QueryOffset > 0:
		return "it counts queries and keys from the same place, and QueryOffset is not 0"
	case c.Window > 0 && c.queries != c.keys:
		return "a window needs as many queries as keys"
	case c.queries%2 != 0 || c.keys%2 != 0:
		return fmt.Sprintf("it trains with even lengths only, and they are %d and %d", c.queries, c.keys)
	}
	for _, why := range []string{c.whyNotDim(gpu), c.whyNotBias(), c.whyNotPacked(gpu)} {
		if why != "" {
			return why
		}
	}
	return ""
}

func (c *call) whyNotDim(gpu capability) string {
	switch {
	case c.dim%8 != 0 || c.dim > maxDimHopper:
		return fmt.Sprintf("head_dim %d is not a multiple of 8 up to %d", c.dim, maxDimHopper)
	case c.dim > maxDim && !gpu.isHopper():
		return fmt.Sprintf("head_dim %d is over %d, which takes compute capability 9.x, and the GPU's is %s", c.dim, maxDim, gpu)
	}
	return ""
}

func (c *call) whyNotBias() string {
	switch {
	case c.Bias == nil:
	case c.Bias.DType() != c.dtype:
		return fmt.Sprintf("it takes a bias of q's dtype only, and Bias is %s", c.Bias.DType())
	case c.SegmentIDs != nil:
		return "it takes no bias with segments"
	case c.dim > maxDim:
		return fmt.Sprintf("it gets no bias with head_dim over %d, where nobody vouches for its gradient", maxDim)
	}
	return ""
}

func (c *call) whyNotPacked(gpu capability) string {
	switch {
	case c.SegmentIDs == nil:
	case c.MaxSegments == 0:
		return "it takes segment ids only with MaxSegments"
	case c.KVSegmentIDs != c.SegmentIDs:
		return "queries and keys have segment ids of their own"
	case !gpu.packs():
		return fmt.Sprintf("it takes segment ids on compute capability 9.x and 10.x, and the GPU's is %s", gpu)
	case c.batch*c.queries*c.heads*c.dim > math.MaxInt32:
		return "it counts the elements of packed rows in 32 bits, and q has more"
	case 4*c.batch*c.MaxSegments*c.heads*c.queries > packedStatistics:
		return fmt.Sprintf("its statistics for %d rows of up to %d segments would take more than %d GiB", c.batch, c.MaxSegments, packedStatistics>>30)
	}
	return ""
}
