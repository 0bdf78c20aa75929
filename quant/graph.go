package quant

import (
	"fmt"
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// DequantizeNode decodes a weight inside a program: inputs are the arrays of [Packed.Inputs], in that order, the result
// has l.Shape and dtype. The bits are those of [Packed.Dequantize]. It panics, as GoMLX's graph functions do, if the
// inputs do not fit the layout.
func (l Layout) DequantizeNode(dtype dtypes.DType, inputs ...*Node) *Node {
	want := 2
	if l.NestedBlocksize > 0 {
		want = 4
	}
	if len(inputs) != want {
		panic(fmt.Errorf("quant: %d inputs for a weight of shape %v with nested blocksize %d, want %d", len(inputs), l.Shape, l.NestedBlocksize, want))
	}
	if l.QuantType == Int8 {
		if len(l.Shape) != 2 {
			panic(fmt.Errorf("quant: int8 weight of shape %v, want a matrix", l.Shape))
		}
		return DequantizeInt8Node(inputs[0], inputs[1], dtype, l.Shape[0], l.Shape[1])
	}
	absmax := inputs[1]
	if l.NestedBlocksize > 0 {
		absmax = AbsmaxNode(inputs[1], inputs[2], inputs[3], l.NestedBlocksize)
	}
	return DequantizeNode(inputs[0], absmax, l.QuantType, l.Blocksize, shapes.Make(dtype, l.Shape...))
}

// DequantizeNode decodes half-planes codes uint8 [(n+1)/2] with one scale for each block, absmax float32
// [ceil(n/blocksize)], to shape, of size n: code·absmax in float32, rounded once to shape's dtype. No gradient flows to
// codes; the weight is frozen. It panics if dtypes or sizes do not fit.
//
// On XLA the sixteen numbers are chosen by a tree of selects on the bits, which fuses with the unpacking and the product
// into one pass; on GoMLX's Go backend, which runs operation by operation, by one lookup for each half-plane.
func DequantizeNode(codes, absmax *Node, qt QuantType, blocksize int, shape shapes.Shape) *Node {
	book, err := qt.book()
	if err != nil {
		panic(fmt.Errorf("quant: dequantize: %w", err))
	}
	n := shape.Size()
	checkVector("codes", codes, dtypes.Uint8, (n+1)/2)
	checkVector("absmax", absmax, dtypes.Float32, blocks(n, blocksize))
	var values *Node
	if codes.Graph().Backend().Name() == "go" {
		values = lookUp(codes, &book.decode)
	} else {
		values = selectTree(unpack(codes, n, blocksize), book.decode[:])
	}
	if n%blocksize == 0 {
		values = Mul(Reshape(values, n/blocksize, blocksize), InsertAxes(absmax, -1))
	} else {
		values = Mul(SliceAxis(Reshape(values, -1), 0, AxisRange(0, n)), repeatEach(absmax, blocksize, n))
	}
	return ReshapeWithShape(ConvertDType(values, shape.DType), shape)
}

// AbsmaxNode decodes double-quantized scales: codes uint8 [nblocks] in the signed [DynamicMap], nestedAbsmax float32
// [ceil(nblocks/blocksize)], and offset, a float32 scalar or one for each nestedAbsmax. The result, float32 [nblocks],
// has the bits of the host's decoder.
func AbsmaxNode(codes, nestedAbsmax, offset *Node, blocksize int) *Node {
	nblocks := codes.Shape().Size()
	groups := blocks(nblocks, blocksize)
	checkVector("absmax codes", codes, dtypes.Uint8, nblocks)
	checkVector("nested absmax", nestedAbsmax, dtypes.Float32, groups)
	if !offset.IsScalar() {
		checkVector("nested offset", offset, dtypes.Float32, groups)
	}
	numbers := DynamicMap(true)
	scaled := Gather(Const(codes.Graph(), numbers[:]), InsertAxes(codes, -1))
	var perGroup func(x *Node) *Node // makes x broadcast against scaled
	if nblocks%blocksize == 0 {
		scaled = Reshape(scaled, groups, blocksize)
		perGroup = func(x *Node) *Node { return InsertAxes(x, -1) }
	} else {
		perGroup = func(x *Node) *Node { return repeatEach(x, blocksize, nblocks) }
	}
	scaled = Mul(scaled, perGroup(nestedAbsmax))
	if !offset.IsScalar() {
		offset = perGroup(offset)
	}
	return Reshape(Add(unfused(scaled), offset), nblocks)
}

// unfused returns x, a float32 product of magnitude below 3e38, in a form that compilers do not contract with the sum
// it goes into: bitsandbytes rounds the product, and XLA's code generators otherwise emit fused multiply-adds.
func unfused(x *Node) *Node { return Min(x, Scalar(x.Graph(), dtypes.Float32, 3e38)) }

// unpack separates the nibbles of codes: n (n+1 if n is odd) uint8 in the order of the flattened weight, in rows of
// blocksize where each half-plane is a whole number of blocks.
func unpack(codes *Node, n, blocksize int) *Node {
	if n%(2*blocksize) == 0 {
		codes = Reshape(codes, -1, blocksize)
	}
	low := BitwiseAnd(codes, Scalar(codes.Graph(), dtypes.Uint8, 15))
	high := BitwiseShiftRightLogicalScalar(codes, 4)
	return Concatenate([]*Node{low, high}, 0)
}

// selectTree returns values[q] for each q, choosing by one bit after the other, the lowest first.
func selectTree(q *Node, values []float32) *Node {
	g := q.Graph()
	choices := make([]*Node, len(values))
	for i, v := range values {
		choices[i] = constant(g, v)
	}
	for bit := 1; len(choices) > 1; bit *= 2 {
		isSet := NotEqual(BitwiseAnd(q, Scalar(g, dtypes.Uint8, bit)), Scalar(g, dtypes.Uint8, 0))
		for i := range len(choices) / 2 {
			choices[i] = Where(isSet, choices[2*i+1], choices[2*i])
		}
		choices = choices[:len(choices)/2]
	}
	return choices[0]
}

// constant is a scalar constant. GoMLX keeps scalars in a cache that cannot tell -0 from 0.
func constant(g *Graph, v float32) *Node {
	if v == 0 && math.Signbit(float64(v)) {
		return Const(g, v)
	}
	return Scalar(g, dtypes.Float32, v)
}

// lookUp returns the value of each code: a byte is looked up once for its low nibble and once for its high one.
func lookUp(codes *Node, values *[16]float32) *Node {
	var low, high [256]float32
	for b := range 256 {
		low[b], high[b] = values[b&15], values[b>>4]
	}
	g := codes.Graph()
	codes = InsertAxes(codes, -1)
	return Concatenate([]*Node{Gather(Const(g, low[:]), codes), Gather(Const(g, high[:]), codes)}, 0)
}

// repeatEach returns the first n of x's values, each repeated times.
func repeatEach(x *Node, times, n int) *Node {
	k := x.Shape().Size()
	return SliceAxis(Reshape(BroadcastToDims(InsertAxes(x, -1), k, times), k*times), 0, AxisRange(0, n))
}

// checkVector panics unless x is a vector of n values of dtype.
func checkVector(name string, x *Node, dtype dtypes.DType, n int) {
	if want := shapes.Make(dtype, n); !x.Shape().Equal(want) {
		panic(fmt.Errorf("quant: %s have shape %s, want %s", name, x.Shape(), want))
	}
}
