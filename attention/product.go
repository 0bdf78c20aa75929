package attention

import (
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/matmul"
)

// product contracts axis i of a with axis j of b, both [batch, heads, ., .], into float32.
func product(a *Node, i int, b *Node, j int) *Node {
	return matmul.Wide(a, []int{i}, []int{0, 1}, b, []int{j}, []int{0, 1})
}

func wide(x *Node) *Node { return ConvertDType(x, dtypes.Float32) }
