package attention

import (
	"fmt"
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/seam"
)

// cuDNN's flash attention through XLA's custom calls __cudnn$fmhaSoftmax, …ScaleBiasSoftmax and their …Backward: key-value
// heads are shared natively, the statistics (the log-sum-exp) are a result of the forward and an operand of the backward,
// which reruns nothing.

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
