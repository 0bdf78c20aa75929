package kernels

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/quant"
)

// Factor is an adapter's factor beside or below a weight: X, in float32, times Scale.
type Factor struct {
	X     *Node // [rows, R] beside a weight, [R, in] below it
	Scale float64
	At    int // beside a weight: the first of the rows that X stands next to
}

// scaled is X times Scale.
func (f Factor) scaled() *Node {
	if f.Scale == 1 {
		return f.X
	}
	return MulScalar(f.X, f.Scale)
}

// DequantizeColumns decodes a weight W [out, in] inside a program and puts adapters' Bs beside it: the result is [W | B | 0],
// [out, in+n], of dtype. B has the factors on its diagonal: each in the rows of its own linear, in columns of its own.
// inputs are the arrays of quant.Packed.Inputs, in that order. The bits of W are those of quant.Layout.DequantizeNode; n is 0
// for W alone.
//
// The kernel takes bfloat16, an even out, an in of whole chunks of 64, blocks of 64 weights or more, and n a multiple of 8.
func DequantizeColumns(l quant.Layout, dtype dtypes.DType, factors []Factor, n int, inputs ...*Node) *Node {
	return dequantize("DequantizeColumns", l, dtype, factors, n, 1, inputs)
}

// DequantizeRows decodes a weight W [out, in] inside a program and puts adapters' As below it, one under the other: the result
// is [W ; A ; 0], [out+n, in]. Otherwise it is as [DequantizeColumns], and n is any number.
func DequantizeRows(l quant.Layout, dtype dtypes.DType, factors []Factor, n int, inputs ...*Node) *Node {
	return dequantize("DequantizeRows", l, dtype, factors, n, 0, inputs)
}

// dequantize puts the factors, and zeros up to n, behind the given axis of the weight.
func dequantize(op string, l quant.Layout, dtype dtypes.DType, factors []Factor, n, axis int, inputs []*Node) *Node {
	if len(l.Shape) != 2 {
		panic(fmt.Errorf("kernels: %s: the weight has shape %v, want a matrix", op, l.Shape))
	}
	if want := 2 + 2*min(1, l.NestedBlocksize); len(inputs) != want {
		panic(fmt.Errorf("kernels: %s: %d inputs for a weight with nested blocksize %d, want %d", op, len(inputs), l.NestedBlocksize, want))
	}
	checkFactors(op, factors, n, axis, l.Shape)
	if k := dequantizeLaunch(l, dtype, axis, n).use(inputs[0].Graph()); k != nil {
		return dequantizeCall(k, l, factors, axis, inputs)
	}
	return dequantizeTwin(l, dtype, factors, n, axis, inputs)
}

// checkFactors panics unless the factors fit beside or below a weight of these dimensions, in room for n ranks; they have that many.
func checkFactors(op string, factors []Factor, n, axis int, weight []int) (ranks int) {
	for i, f := range factors {
		name := fmt.Sprint("factor ", i)
		rows, columns := checkMatrix(op, name, f.X)
		if axis == 0 {
			check(op, name, f.X, dtypes.Float32, rows, weight[1])
			ranks += rows
			continue
		}
		check(op, name, f.X, dtypes.Float32, rows, columns)
		if f.At < 0 || f.At+rows > weight[0] {
			panic(fmt.Errorf("kernels: %s: %s stands next to rows %d to %d of a weight of %d", op, name, f.At, f.At+rows, weight[0]))
		}
		ranks += columns
	}
	if ranks > n {
		panic(fmt.Errorf("kernels: %s: factors of rank %d altogether in room for %d", op, ranks, n))
	}
	return ranks
}

// BlockDiagonal is the matrix [rows, ΣR] that has the factors on its diagonal, in float32. They are in the order of their rows.
func BlockDiagonal(factors []Factor, rows int) *Node {
	g, row, column, n := factors[0].X.Graph(), 0, 0, 0
	for _, f := range factors {
		n += f.X.Shape().Dim(1)
	}
	zeros := func(rows, columns int) *Node { return Zeros(g, shapes.Make(dtypes.Float32, rows, columns)) }
	var parts []*Node
	for _, f := range factors {
		if f.At > row {
			parts = append(parts, zeros(f.At-row, n))
		}
		out, r := f.X.Shape().Dim(0), f.X.Shape().Dim(1)
		x := f.scaled()
		if column > 0 {
			x = Concatenate([]*Node{zeros(out, column), x}, 1)
		}
		parts = append(parts, padTo(x, n))
		row, column = f.At+out, column+r
	}
	if row < rows {
		parts = append(parts, zeros(rows-row, n))
	}
	return Concatenate(parts, 0)
}

// Stacked is the matrix [ΣR, in] of the factors one below the other, in float32.
func Stacked(factors []Factor) *Node {
	var parts []*Node
	for _, f := range factors {
		parts = append(parts, f.scaled())
	}
	return Concatenate(parts, 0)
}

// together are the factors as one matrix, for beside (axis 1) or below (axis 0) a weight of so many rows, in float32.
func together(factors []Factor, axis, rows int) *Node {
	if axis == 0 {
		return Stacked(factors)
	}
	return BlockDiagonal(factors, rows)
}

func dequantizeTwin(l quant.Layout, dtype dtypes.DType, factors []Factor, n, axis int, inputs []*Node) *Node {
	parts := []*Node{l.DequantizeNode(dtype, inputs...)}
	if len(factors) > 0 {
		parts = append(parts, ConvertDType(together(factors, axis, l.Shape[0]), dtype))
		n -= parts[1].Shape().Dim(axis)
	}
	if n > 0 {
		zeros := []int{l.Shape[0], l.Shape[1]}
		zeros[axis] = n
		parts = append(parts, Zeros(parts[0].Graph(), shapes.Make(dtype, zeros...)))
	}
	return Concatenate(parts, axis)
}

// What nf4.cuh has.
const (
	dequantizeThreads = 256
	dequantizeChunks  = 1024 // of codes, 8 bytes each, that a block decodes, or of factors that it places
	dequantizeFactors = 3
)

// dequantizeLaunch is the kernel's launch for a weight and n rows below (axis 0) or columns beside it (axis 1); nil if it does
// not take them. What its sizes say of factors is left to dequantizeCall.
func dequantizeLaunch(l quant.Layout, dtype dtypes.DType, axis, n int) *launch {
	out, in := l.Shape[0], l.Shape[1]
	group := max(1, l.NestedBlocksize)
	kind := int32(0)
	switch {
	case dtype != dtypes.BFloat16 || out%2 != 0 || in%64 != 0 || out == 0 || in == 0 || out*in >= 1<<33:
		return nil
	case l.Blocksize < 64 || l.Blocksize&(l.Blocksize-1) != 0 || group&(group-1) != 0:
		return nil
	case axis == 1 && n%chunk != 0 || n*l.Shape[1-axis] >= 1<<33:
		return nil
	case l.QuantType == quant.FP4:
		kind = 1
	case l.QuantType != quant.NF4:
		return nil
	}
	k := &launch{kernel: "nf4", threads: dequantizeThreads}
	if l.NestedBlocksize > 0 {
		k.kernel = "nf4_nested"
	}
	shape := []int{out, in}
	shape[axis] += n
	k.out = []shapes.Shape{shapes.Make(dtype, shape...)}
	besides, below, placed := n/chunk, 0, out*(n/chunk)
	if axis == 0 {
		besides, below, placed = 0, n, n*(in/chunk)
	}
	k.grid[0] = ceilDiv(out/2*in/chunk, dequantizeChunks) + ceilDiv(placed, dequantizeChunks)
	log2 := func(x int) int32 { return int32(bits.TrailingZeros(uint(x))) }
	k.sizes = []int32{int32(out / 2), int32(in / chunk), int32(besides), int32(below), log2(l.Blocksize / chunk), kind, log2(group)}
	return k
}

// dequantizeCall checks what the twin checks too, and launches.
func dequantizeCall(k *launch, l quant.Layout, factors []Factor, axis int, inputs []*Node) *Node {
	if len(factors) > dequantizeFactors {
		factors = []Factor{{X: together(factors, axis, l.Shape[0]), Scale: 1}}
	}
	operands := packedOperands("dequantize", l, inputs)
	for i := range dequantizeFactors {
		var place [4]int32
		if i < len(factors) {
			place = factors[i].place(axis, factors[i].X.Shape().Dimensions)
			operands = append(operands, factors[i].X)
		} else {
			operands = append(operands, inputs[1]) // never read
		}
		k.sizes = append(k.sizes, place[:]...)
	}
	return k.call(operands...)[0]
}

// place is where a factor of these dimensions stands, as the kernel takes it.
func (f Factor) place(axis int, dims []int) [4]int32 {
	return [4]int32{int32(f.At), int32(f.At + dims[0]), int32(dims[axis]), int32(math.Float32bits(float32(f.Scale)))}
}

// packedOperands are the codes and scales of a packed weight as kernels take them: codes and absmax, or, where that is
// quantized, its codes, the nested absmax and offset, and the numbers of the scales' codes.
func packedOperands(op string, l quant.Layout, inputs []*Node) []*Node {
	n := l.Shape[0] * l.Shape[1]
	blocks := ceilDiv(n, l.Blocksize)
	check(op, "the codes", inputs[0], dtypes.Uint8, n/2)
	if l.NestedBlocksize == 0 {
		check(op, "absmax", inputs[1], dtypes.Float32, blocks)
		return []*Node{inputs[0], inputs[1]}
	}
	groups := ceilDiv(blocks, l.NestedBlocksize)
	check(op, "the absmax codes", inputs[1], dtypes.Uint8, blocks)
	check(op, "the nested absmax", inputs[2], dtypes.Float32, groups)
	offset := inputs[3]
	if offset.IsScalar() {
		offset = BroadcastToDims(offset, groups)
	}
	check(op, "the nested offset", offset, dtypes.Float32, groups)
	numbers := quant.DynamicMap(true)
	return []*Node{inputs[0], inputs[1], inputs[2], offset, Const(inputs[0].Graph(), numbers[:])}
}
