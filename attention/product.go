package attention

import (
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
)

// product contracts axis i of a with axis j of b, both [batch, heads, ., .], into float32.
func product(a *Node, i int, b *Node, j int) *Node {
	return generalProduct(a, []int{i}, []int{0, 1}, b, []int{j}, []int{0, 1})
}

// generalProduct is a matrix product into float32, of the named axes.
func generalProduct(a *Node, contractA, batchA []int, b *Node, contractB, batchB []int) *Node {
	if _, plugin := a.Graph().Backend().(interface{ PluginName() string }); !plugin {
		// GoMLX's pure-Go backend (compute v0.1.14, with SIMD on AVX2) multiplies larger bfloat16 matrices wrongly.
		a, b = wide(a), wide(b)
	}
	// Half-precision operands stay as they are: XLA accumulates their products in float32 on its own.
	dot := Dot(a, b).WithAccumulatorDType(dtypes.InvalidDType)
	if a.DType() != dtypes.Float32 {
		dot = dot.WithOutputDType(dtypes.Float32)
	}
	return dot.General(contractA, batchA, contractB, batchB)
}

func wide(x *Node) *Node { return ConvertDType(x, dtypes.Float32) }
