package attention

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/seam"
)

// cuDNN's flash attention through XLA's custom calls __cudnn$fmhaSoftmax and …Backward: key-value heads are shared natively,
// the statistics (the log-sum-exp) are a result of the forward and an operand of the backward, which reruns nothing.

// cudnnMaxDim is the largest head_dim that forward and backward take.
const cudnnMaxDim = 128

// whyNotCuDNN says what keeps a call from the cuDNN route; "" if nothing does.
func (c *call) whyNotCuDNN(b compute.Backend) string {
	switch {
	case !isCUDA(b):
		return "the backend is not CUDA opened through the seam"
	case c.dtype == dtypes.Float32:
		return "it takes bfloat16 and float16 only"
	case c.dim%8 != 0 || c.dim > cudnnMaxDim:
		return fmt.Sprintf("head_dim %d is not a multiple of 8 up to %d", c.dim, cudnnMaxDim)
	case c.SegmentIDs != nil:
		return "it has no segment ids"
	case c.SoftCap > 0:
		return "it has no soft cap"
	case c.queries != c.keys || c.QueryOffset > 0:
		return "queries and keys differ in length or place"
	case c.queries%2 != 0:
		return fmt.Sprintf("the length %d is odd", c.queries)
	}
	return ""
}

func isCUDA(b compute.Backend) bool {
	named, ok := b.(interface{ PluginName() string })
	return ok && seam.Available(b) && strings.Contains(named.PluginName(), "cuda")
}

// cudnnForward returns out like q and lse [batch, heads, q_seq] float32.
func (c *call) cudnnForward(q, k, v *Node) (out, lse *Node) {
	r := c.cudnn(false, 1, []shapes.Shape{q.Shape(), shapes.Make(dtypes.Float32, c.batch, c.heads, c.queries)}, q, k, v)
	return r[0], r[1]
}

// cudnnBackward returns the gradients of q, k and v.
func (c *call) cudnnBackward(q, k, v, out, lse, dOut *Node) []*Node {
	return c.cudnn(true, 3, []shapes.Shape{q.Shape(), k.Shape(), v.Shape()}, q, k, v, lse, dOut, out)
}

// cudnn calls forward or backward. The first heads results are [batch, seq, heads, dim]; the library writes them as
// [batch, heads, seq, dim] in that memory order, so that transposing them back moves nothing.
func (c *call) cudnn(backward bool, heads int, out []shapes.Shape, in ...*Node) []*Node {
	var inShapes []shapes.Shape
	for _, n := range in {
		inShapes = append(inShapes, n.Shape())
	}
	raw := append([]shapes.Shape{}, out...)
	layouts := make([][]int, len(out)+1)
	for i := range heads {
		d := out[i].Dimensions
		raw[i] = shapes.Make(out[i].DType, d[0], d[2], d[1], d[3])
		layouts[i] = []int{3, 1, 2, 0}
	}
	raw = append(raw, shapes.Make(dtypes.Uint8, 0)) // workspace, sized by the compiler
	target := "__cudnn$fmhaSoftmax"
	if backward {
		target += "Backward"
	}
	operands := make([]string, len(in))
	for i := range in {
		operands[i] = fmt.Sprint("%a", i)
	}
	call := seam.CustomCall{Target: target, Config: c.cudnnConfig(backward), ResultLayouts: layouts}
	var body strings.Builder
	body.WriteString(call.Statement("%c", operands, inShapes, raw))
	results := make([]string, len(out))
	for i, o := range out {
		results[i] = fmt.Sprintf("%%c#%d", i)
		if i < heads {
			fmt.Fprintf(&body, "    %%t%d = \"stablehlo.transpose\"(%s) {permutation = array<i64: 0, 2, 1, 3>} : (%s) -> %s\n",
				i, results[i], seam.TensorType(raw[i]), seam.TensorType(o))
			results[i] = fmt.Sprintf("%%t%d", i)
		}
	}
	body.WriteString(seam.Return(results, out))
	return seam.Call(seam.Body(body.String()), out, in...)
}

// dot is the numbering of axes of one of the call's matrix products.
type dot struct {
	LHSContracting []string `json:"lhs_contracting_dimensions"`
	RHSContracting []string `json:"rhs_contracting_dimensions"`
	LHSBatch       []string `json:"lhs_batch_dimensions"`
	RHSBatch       []string `json:"rhs_batch_dimensions"`
}

func dots(lhs, rhs, lhsHead, rhsHead string) dot {
	return dot{[]string{lhs}, []string{rhs}, []string{"0", lhsHead}, []string{"0", rhsHead}}
}

// cudnnConfig is the call's backend_config: XLA's CudnnfMHABackendConfig as JSON, with 64-bit numbers as strings.
func (c *call) cudnnConfig(backward bool) string {
	scores := map[string]any{
		"element_type": strings.ToUpper(map[dtypes.DType]string{dtypes.BFloat16: "bf16", dtypes.Float16: "f16"}[c.dtype]),
		"dimensions":   []string{fmt.Sprint(c.batch), fmt.Sprint(c.heads), fmt.Sprint(c.queries), fmt.Sprint(c.keys)},
		"tuple_shapes": []any{}, "is_dynamic_dimension": []bool{false, false, false, false},
		"layout": map[string]any{
			"minor_to_major": []string{"3", "2", "1", "0"}, "dim_level_types": []any{}, "dim_unique": []any{}, "dim_ordered": []any{},
			"tiles": []any{}, "element_size_in_bits": "0", "memory_space": "0", "index_primitive_type": "PRIMITIVE_TYPE_INVALID",
			"pointer_primitive_type": "PRIMITIVE_TYPE_INVALID", "dynamic_shape_metadata_prefix_bytes": "0",
		},
	}
	mask := "NO_MASK"
	if c.Causal {
		mask = "CAUSAL"
	}
	config := map[string]any{
		"algorithm": map[string]any{
			"algo_id": "0", "math_type": "TENSOR_OP_MATH", "tuning_knobs": map[string]string{"17": "1", "24": "0"},
			"is_cudnn_frontend": true, "workspace_size": "0",
		},
		"fmha_scale": c.Scale, "is_flash_attention": true, "mask_type": mask, "dropout_rate": 0, "seed": 42,
		"sliding_window_length": c.Window, "max_seg_per_batch": 1, "is_paged_attention": false,
		"intermediate_tensor_shape": scores,
	}
	if backward {
		config["bmm1_grad_gemm1_dot_dimension_numbers"] = dots("2", "1", "1", "2")
		config["bmm1_grad_gemm2_dot_dimension_numbers"] = dots("3", "1", "1", "2")
		config["bmm2_grad_gemm1_dot_dimension_numbers"] = dots("2", "1", "1", "2")
		config["bmm2_grad_gemm2_dot_dimension_numbers"] = dots("3", "3", "2", "2")
	} else {
		config["bmm1_dot_dimension_numbers"] = dots("3", "3", "2", "2")
		config["bmm2_dot_dimension_numbers"] = dots("3", "1", "1", "2")
	}
	text, err := json.Marshal(map[string]any{"operation_queue_id": "0", "cudnn_fmha_backend_config": config})
	if err != nil {
		panic(err) // a map of strings and numbers
	}
	return string(text)
}
