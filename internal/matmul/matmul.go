// Package matmul has the matrix product of the other packages: GoMLX's DotGeneral without its two traps.
//
// Of operands in half precision, GoMLX names a float32 accumulator by default, and then differentiates by products of
// operands that it has converted to float32; here none is named, and compilers accumulate in float32 all the same. And on
// the embedded Go backend (compute v0.1.14) large products in half precision are wrong on machines with AVX-512, by more
// than half of the result; there the operands are converted first.
package matmul

import (
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
)

// Contract is the product of x and y over one axis of each, in their dtype: the other axes of x, then those of y.
func Contract(x *Node, xAxis int, y *Node, yAxis int) *Node {
	return General(x, []int{xAxis}, nil, y, []int{yAxis}, nil)
}

// General contracts and batches over the given axes: the result has the batch axes, then the other axes of x, then those
// of y, in the operands' dtype.
func General(x *Node, xContract, xBatch []int, y *Node, yContract, yBatch []int) *Node {
	if widened(x) {
		return ConvertDType(Wide(x, xContract, xBatch, y, yContract, yBatch), x.DType())
	}
	return Dot(x, y).WithAccumulatorDType(dtypes.InvalidDType).General(xContract, xBatch, yContract, yBatch)
}

// Wide is General with a float32 result. It is not meant to be differentiated.
func Wide(x *Node, xContract, xBatch []int, y *Node, yContract, yBatch []int) *Node {
	if widened(x) {
		x, y = ConvertDType(x, dtypes.Float32), ConvertDType(y, dtypes.Float32)
	}
	d := Dot(x, y).WithAccumulatorDType(dtypes.InvalidDType)
	if x.DType() != dtypes.Float32 {
		d = d.WithOutputDType(dtypes.Float32)
	}
	return d.General(xContract, xBatch, yContract, yBatch)
}

// widened tells whether x is in half precision on the Go backend.
func widened(x *Node) bool {
	if !x.DType().IsHalfPrecision() {
		return false
	}
	_, compiled := x.Graph().Backend().(interface{ PluginName() string }) // XLA
	return !compiled
}
