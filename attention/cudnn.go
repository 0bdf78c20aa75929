package attention

import (
	"fmt"
	"math"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/seam"
)

// cuDNN's flash attention through XLA's custom calls __cudnn$fmhaSoftmax, …ScaleBiasSoftmax and their …Backward: key-value
// heads are shared natively, the statistics (the log-sum-exp) are a result of the forward and an operand of the backward,
// which reruns nothing.

// cudnnMaxDim is the largest head_dim that forward and backward take on every card.
const cudnnMaxDim = 128

// packedStatistics is how many bytes the statistics of packed documents, which cuDNN keeps apart, may take while it runs.
const packedStatistics = 2 << 30

// whyNotCuDNN says what keeps a call from the cuDNN route; "" if nothing does.
func (c *call) whyNotCuDNN(b compute.Backend) string {
	if !isCUDA(b) {
		return "the backend is not CUDA opened through the seam"
	}
	return c.whyNotForCuDNN()
}

// whyNotForCuDNN is whyNotCuDNN on a backend that has it.
func (c *call) whyNotForCuDNN() string {
	switch {
	case c.dtype == dtypes.Float32:
		return "it takes bfloat16 and float16 only"
	case c.dim%8 != 0 || c.dim > cudnnMaxDim:
		return fmt.Sprintf("head_dim %d is not a multiple of 8 up to %d", c.dim, cudnnMaxDim)
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
	if why := c.whyNotBias(); why != "" {
		return why
	}
	return c.whyNotPacked()
}

func (c *call) whyNotBias() string {
	switch {
	case c.Bias == nil:
	case c.Bias.DType() != c.dtype:
		return fmt.Sprintf("it takes a bias of q's dtype only, and Bias is %s", c.Bias.DType())
	case c.SegmentIDs != nil:
		return "it takes no bias with segments"
	}
	return ""
}

func (c *call) whyNotPacked() string {
	switch {
	case c.SegmentIDs == nil:
	case c.MaxSegments == 0:
		return "it takes segment ids only with MaxSegments"
	case c.KVSegmentIDs != c.SegmentIDs:
		return "queries and keys have segment ids of their own"
	case c.batch*c.queries*c.heads*c.dim > math.MaxInt32:
		return "it counts the elements of packed rows in 32 bits, and q has more"
	case 4*c.batch*c.MaxSegments*c.heads*c.queries > packedStatistics:
		return fmt.Sprintf("its statistics for %d rows of up to %d segments would take more than %d GiB", c.batch, c.MaxSegments, packedStatistics>>30)
	}
	return ""
}

func isCUDA(b compute.Backend) bool {
	named, ok := b.(interface{ PluginName() string })
	return ok && seam.Available(b) && strings.Contains(named.PluginName(), "cuda")
}

// packs tells whether the call's rows hold documents that cuDNN must be told of.
func (c *call) packs() bool { return c.SegmentIDs != nil && c.MaxSegments > 1 }

// cudnnForward returns out like q and lse [batch, heads, q_seq] float32.
func (c *call) cudnnForward(q, k, v, bias *Node) (out, lse *Node) {
	in := []*Node{q, k, v}
	if bias != nil {
		in = append(in, bias)
	}
	if !c.packs() {
		r := c.fmha(false).apply(in)
		return r[0], r[1]
	}
	p := c.pack()
	r := c.fmha(false).apply(append(in, p.operands()...))
	return r[0], p.gather(r[1])
}

// cudnnBackward returns the gradients of q, k, v and, where there is one, the bias.
func (c *call) cudnnBackward(q, k, v, bias, out, lse, dOut *Node) []*Node {
	in := []*Node{q, k, v, lse, dOut}
	if bias != nil {
		in = append(in, bias)
	}
	in = append(in, out)
	if c.packs() {
		p := c.pack()
		in[3] = p.scatter(lse)
		in = append(in, p.operands()...)
	}
	grads := c.fmha(true).apply(in)
	if bias != nil && len(grads) == 3 {
		grads = append(grads, nil)
	}
	return grads
}

// value is an operand or a result of the call.
type value struct {
	name  string
	shape shapes.Shape
}

// fmha is one of cuDNN's calls: what goes in and comes out, in order, as the graph sees it. The first headed results are
// [batch, seq, heads, dim]; the library writes them as [batch, heads, seq, dim] in that memory order, so that transposing
// them back moves nothing.
type fmha struct {
	target  string
	config  string
	in, out []value
	headed  int
}

// fmha describes the forward or backward call.
func (c *call) fmha(backward bool) fmha {
	slots := c.batch
	if c.packs() {
		slots *= c.MaxSegments
	}
	q := shapes.Make(c.dtype, c.batch, c.queries, c.heads, c.dim)
	k := shapes.Make(c.dtype, c.batch, c.keys, c.kvHeads, c.dim)
	stats := value{"stats", shapes.Make(dtypes.Float32, slots, c.heads, c.queries)}

	f := fmha{target: "__cudnn$fmhaSoftmax", config: c.cudnnConfig(backward), in: []value{{"q", q}, {"k", k}, {"v", k}}}
	if c.Bias != nil {
		f.target = "__cudnn$fmhaScaleBiasSoftmax"
	}
	addBias := func() {
		if c.Bias != nil {
			f.in = append(f.in, value{"bias", c.Bias.Shape()})
		}
	}
	if backward {
		f.target += "Backward"
		f.in = append(f.in, stats, value{"dOut", q})
		addBias()
		f.in = append(f.in, value{"out", q})
		f.out, f.headed = []value{{"dq", q}, {"dk", k}, {"dv", k}}, 3
		if c.wantsBiasGradient() {
			f.out = append(f.out, value{"dBias", c.Bias.Shape()})
		}
	} else {
		addBias()
		f.out, f.headed = []value{{"out", q}, stats}, 1
	}
	if c.packs() {
		lengths := shapes.Make(dtypes.Int32, c.batch, c.MaxSegments)
		offsets := shapes.Make(dtypes.Int32, c.batch, c.MaxSegments+1)
		f.in = append(f.in, value{"q lengths", lengths}, value{"kv lengths", lengths}, value{"q offsets", offsets}, value{"kv offsets", offsets})
	}
	return f
}

func shapesOf(values []value) []shapes.Shape {
	out := make([]shapes.Shape, len(values))
	for i, v := range values {
		out[i] = v.shape
	}
	return out
}

// statement is the call as a line of StableHLO; raw are its results as the library writes them, the workspace the last.
func (f fmha) statement() (text string, raw []shapes.Shape) {
	raw = shapesOf(f.out)
	layouts := make([][]int, len(raw)+1)
	for i := range f.headed {
		d := raw[i].Dimensions
		raw[i] = shapes.Make(raw[i].DType, d[0], d[2], d[1], d[3])
		layouts[i] = []int{3, 1, 2, 0}
	}
	raw = append(raw, shapes.Make(dtypes.Uint8, 0)) // workspace, sized by the compiler
	operands := make([]string, len(f.in))
	for i := range operands {
		operands[i] = fmt.Sprint("%a", i)
	}
	call := seam.CustomCall{Target: f.target, Config: f.config, ResultLayouts: layouts}
	return call.Statement("%c", operands, shapesOf(f.in), raw), raw
}

// apply adds the call to the graph of its operands.
func (f fmha) apply(in []*Node) []*Node {
	text, raw := f.statement()
	out := shapesOf(f.out)
	var body strings.Builder
	body.WriteString(text)
	results := make([]string, len(out))
	for i, o := range out {
		results[i] = fmt.Sprintf("%%c#%d", i)
		if i < f.headed {
			fmt.Fprintf(&body, "    %%t%d = \"stablehlo.transpose\"(%s) {permutation = array<i64: 0, 2, 1, 3>} : (%s) -> %s\n",
				i, results[i], seam.TensorType(raw[i]), seam.TensorType(o))
			results[i] = fmt.Sprintf("%%t%d", i)
		}
	}
	body.WriteString(seam.Return(results, out))
	return seam.Call(seam.Body(body.String()), out, in...)
}
