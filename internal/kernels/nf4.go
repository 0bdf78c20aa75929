package kernels

import (
	"fmt"
	"math/bits"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/quant"
)

// DequantizeColumns decodes a weight W [out, in] inside a program and puts tail [out, n] beside it: the result is
// [W | tail], [out, in+n], of tail's dtype. inputs are the arrays of quant.Packed.Inputs, in that order. The bits are those
// of quant.Layout.DequantizeNode. Without a tail (nil) the result is W alone, in dtype.
//
// The kernel takes bfloat16, an even out, an in of whole chunks of 64, blocks of 64 weights or more, and n a multiple of 8.
func DequantizeColumns(l quant.Layout, dtype dtypes.DType, tail *Node, inputs ...*Node) *Node {
	return dequantize("DequantizeColumns", l, dtype, tail, 1, inputs)
}

// DequantizeRows decodes a weight W [out, in] inside a program and puts tail [n, in] below it: the result is [W ; tail],
// [out+n, in]. Otherwise it is as [DequantizeColumns], and n is any number.
func DequantizeRows(l quant.Layout, dtype dtypes.DType, tail *Node, inputs ...*Node) *Node {
	return dequantize("DequantizeRows", l, dtype, tail, 0, inputs)
}

// dequantize puts the tail behind the given axis of the weight.
func dequantize(op string, l quant.Layout, dtype dtypes.DType, tail *Node, axis int, inputs []*Node) *Node {
	if len(l.Shape) != 2 {
		panic(fmt.Errorf("kernels: %s: the weight has shape %v, want a matrix", op, l.Shape))
	}
	if want := 2 + 2*min(1, l.NestedBlocksize); len(inputs) != want {
		panic(fmt.Errorf("kernels: %s: %d inputs for a weight with nested blocksize %d, want %d", op, len(inputs), l.NestedBlocksize, want))
	}
	n := 0
	if tail != nil {
		if tail.Rank() == 2 {
			n = tail.Shape().Dimensions[axis]
		}
		want := []int{l.Shape[0], l.Shape[1]}
		want[axis] = n
		check(op, "the tail", tail, dtype, want...)
	}
	if k := dequantizeLaunch(l, dtype, axis, n).use(inputs[0].Graph()); k != nil {
		return dequantizeCall(k, l, tail, inputs)
	}
	return dequantizeTwin(l, dtype, tail, axis, inputs)
}

func dequantizeTwin(l quant.Layout, dtype dtypes.DType, tail *Node, axis int, inputs []*Node) *Node {
	w := l.DequantizeNode(dtype, inputs...)
	if tail == nil {
		return w
	}
	return Concatenate([]*Node{w, tail}, axis)
}

// What nf4.cuh has.
const (
	dequantizeThreads = 256
	dequantizeChunks  = 1024 // of codes, 8 bytes each, that a block decodes
)

// dequantizeLaunch is the kernel's launch for a weight and a tail of n rows (axis 0) or columns (axis 1); nil if it does not
// take them.
func dequantizeLaunch(l quant.Layout, dtype dtypes.DType, axis, n int) *launch {
	out, in := l.Shape[0], l.Shape[1]
	group := max(1, l.NestedBlocksize)
	kind := int32(0)
	switch {
	case dtype != dtypes.BFloat16 || out%2 != 0 || in%64 != 0 || out == 0 || in == 0 || out*in >= 1<<33:
		return nil
	case l.Blocksize < 64 || l.Blocksize&(l.Blocksize-1) != 0 || group&(group-1) != 0:
		return nil
	case axis == 1 && n%chunk != 0 || n*in >= 1<<33:
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
	k.grid[0] = ceilDiv(out/2*in/chunk, dequantizeChunks)
	shape := []int{out, in}
	shape[axis] += n
	k.out = []shapes.Shape{shapes.Make(dtype, shape...)}
	besides, below := n/chunk, 0
	if axis == 0 {
		besides, below = 0, n
	}
	log2 := func(x int) int32 { return int32(bits.TrailingZeros(uint(x))) }
	k.sizes = []int32{int32(out / 2), int32(in / chunk), int32(besides), int32(below), log2(l.Blocksize / chunk), kind, log2(group)}
	return k
}

// dequantizeCall checks what the twin checks too, and launches.
func dequantizeCall(k *launch, l quant.Layout, tail *Node, inputs []*Node) *Node {
	if tail == nil {
		tail = inputs[1] // never read
	}
	return k.call(append(packedOperands("dequantize", l, inputs), tail)...)[0]
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
