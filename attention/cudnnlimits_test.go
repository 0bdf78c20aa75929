package attention

import (
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/seam"
)

func TestExplainNamesWhatKeepsCuDNNAway(t *testing.T) {
	d := open(t)
	hopper, ampere := capability{9, 0}, capability{8, 0}
	plain := func(g *Graph) Options { return Options{} }
	ids := func(g *Graph) *Node { return Zeros(g, shapes.Make(dtypes.Int32, 2, 64)) }
	packed := func(g *Graph) Options { return Options{SegmentIDs: ids(g), MaxSegments: 4} }
	bias := func(dtype dtypes.DType) func(g *Graph) Options {
		return func(g *Graph) Options { return Options{Bias: Zeros(g, shapes.Make(dtype, 1, 1, 64, 64))} }
	}
	for _, x := range []struct {
		want    string // "": nothing
		gpu     capability
		dtype   dtypes.DType
		length  int
		dim     int
		options func(g *Graph) Options
	}{
		{"", hopper, dtypes.BFloat16, 64, 64, func(g *Graph) Options { return Options{Window: 9} }},
		{"", ampere, dtypes.Float16, 64, 128, plain},
		{"", hopper, dtypes.BFloat16, 64, 256, plain},
		{"", hopper, dtypes.BFloat16, 64, 256, packed},
		{"", hopper, dtypes.Float16, 64, 136, plain},
		{"", capability{10, 0}, dtypes.BFloat16, 64, 128, packed},
		{"", capability{12, 0}, dtypes.BFloat16, 64, 128, plain},
		{"", hopper, dtypes.BFloat16, 64, 64, func(g *Graph) Options { return Options{SegmentIDs: ids(g), MaxSegments: 1} }},
		{"", ampere, dtypes.BFloat16, 64, 64, bias(dtypes.BFloat16)},
		{"needs compute capability 8.0, and the GPU's is 7.5", capability{7, 5}, dtypes.Float16, 64, 64, plain},
		{"bfloat16 and float16 only", hopper, dtypes.Float32, 64, 64, plain},
		{"head_dim 136 is over 128, which takes compute capability 9.x, and the GPU's is 8.0", ampere, dtypes.BFloat16, 64, 136, plain},
		{"head_dim 256 is over 128, which takes compute capability 9.x, and the GPU's is 10.0", capability{10, 0}, dtypes.BFloat16, 64, 256, plain},
		{"head_dim 264 is not a multiple of 8 up to 256", hopper, dtypes.BFloat16, 64, 264, plain},
		{"head_dim 20 is not a multiple of 8", hopper, dtypes.BFloat16, 64, 20, plain},
		{"soft cap", hopper, dtypes.BFloat16, 64, 64, func(g *Graph) Options { return Options{SoftCap: 30} }},
		{"even lengths", hopper, dtypes.BFloat16, 63, 64, plain},
		{"QueryOffset", hopper, dtypes.BFloat16, 64, 64, func(g *Graph) Options { return Options{Causal: true, QueryOffset: 1} }},
		{"one mask for all steps", hopper, dtypes.BFloat16, 64, 64, func(g *Graph) Options {
			return Options{DropoutRate: 0.1, DropoutKeys: Zeros(g, shapes.Make(dtypes.Uint32, 2))}
		}},
		{"only with MaxSegments", hopper, dtypes.BFloat16, 64, 64, func(g *Graph) Options { return Options{SegmentIDs: ids(g)} }},
		{"segment ids of their own", hopper, dtypes.BFloat16, 64, 64, func(g *Graph) Options {
			return Options{SegmentIDs: ids(g), KVSegmentIDs: AddScalar(ids(g), 1), MaxSegments: 4}
		}},
		{"segment ids on compute capability 9.x and 10.x, and the GPU's is 8.0", ampere, dtypes.BFloat16, 64, 64, packed},
		{"segment ids on compute capability 9.x and 10.x, and the GPU's is 12.0", capability{12, 0}, dtypes.BFloat16, 64, 64, packed},
		{"more than 2 GiB", hopper, dtypes.BFloat16, 64, 64, func(g *Graph) Options {
			return Options{SegmentIDs: ids(g), MaxSegments: 1 << 21}
		}},
		{"q's dtype only", hopper, dtypes.BFloat16, 64, 64, bias(dtypes.Float32)},
		{"no bias with head_dim over 128", hopper, dtypes.BFloat16, 64, 192, bias(dtypes.BFloat16)},
	} {
		g := NewGraph(d.Backend, "explain")
		q := Zeros(g, shapes.Make(x.dtype, 2, x.length, 4, x.dim))
		c := newCall(q, q, q, x.options(g))
		if why := c.whyNotOn(x.gpu); !strings.Contains(why, x.want) || x.want == "" && why != "" {
			t.Errorf("reason %q, want %q", why, x.want)
		}
		if got := Explain(q, q, q, x.options(g)); !strings.Contains(got, "cuDNN: the backend is not CUDA") {
			t.Errorf("Explain says %q", got)
		}
	}
}

// Where it told nothing, capabilityOf would take any GPU for an old one, and nobody would notice.
func TestAGPUTellsItsComputeCapability(t *testing.T) {
	onBackends(t, func(t *testing.T, d *backend.Device) {
		if d.Kind != backend.CUDA {
			t.Skip("it needs a CUDA backend")
		}
		p, ok := seam.Of(d.Backend)
		if !ok {
			t.Fatal("the backend was not opened through the seam")
		}
		major, minor, err := p.ComputeCapability(int(d.Num))
		if err != nil || major == 0 {
			t.Fatalf("compute capability %d.%d, error %v", major, minor, err)
		}
		if got := capabilityOf(d.Backend); got != (capability{major, minor}) {
			t.Errorf("capability %s, want %d.%d", got, major, minor)
		}
	})
}
