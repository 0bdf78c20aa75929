package attention

import (
	"encoding/json"
	"fmt"

	"github.com/gomlx/compute/dtypes"
)

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
	mask, segments := "NO_MASK", 1
	if c.Causal {
		mask = "CAUSAL"
	}
	if c.packs() {
		segments = c.MaxSegments
		mask = map[bool]string{false: "PADDING", true: "PADDING_CAUSAL"}[c.Causal]
	}
	config := map[string]any{
		"algorithm": map[string]any{
			"algo_id": "0", "math_type": "TENSOR_OP_MATH", "tuning_knobs": map[string]string{"17": "1", "24": "0"},
			"is_cudnn_frontend": true, "workspace_size": "0",
		},
		"fmha_scale": c.Scale, "is_flash_attention": true, "mask_type": mask, "dropout_rate": 0, "seed": 42,
		"sliding_window_length": c.Window, "max_seg_per_batch": segments, "is_paged_attention": false,
		"intermediate_tensor_shape": c.cudnnScores(),
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

// cudnnScores is the shape of the scores, which never exist, as XLA's ShapeProto.
func (c *call) cudnnScores() map[string]any {
	return map[string]any{
		"element_type": map[dtypes.DType]string{dtypes.BFloat16: "BF16", dtypes.Float16: "F16"}[c.dtype],
		"dimensions":   []string{fmt.Sprint(c.batch), fmt.Sprint(c.heads), fmt.Sprint(c.queries), fmt.Sprint(c.keys)},
		"tuple_shapes": []any{}, "is_dynamic_dimension": []bool{false, false, false, false},
		"layout": map[string]any{
			"minor_to_major": []string{"3", "2", "1", "0"}, "dim_level_types": []any{}, "dim_unique": []any{}, "dim_ordered": []any{},
			"tiles": []any{}, "element_size_in_bits": "0", "memory_space": "0", "index_primitive_type": "PRIMITIVE_TYPE_INVALID",
			"pointer_primitive_type": "PRIMITIVE_TYPE_INVALID", "dynamic_shape_metadata_prefix_bytes": "0",
		},
	}
}
