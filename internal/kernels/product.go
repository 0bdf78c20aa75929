package kernels

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/matmul"
	"github.com/loris-ml/loris/quant"
)

// MaxProductRows is up to how many rows the kernels of [Product] take; for more it is better to decode the weight first.
const MaxProductRows = 64

// ProductThen is what follows a [Product].
type ProductThen int

const (
	ThenNothing ProductThen = iota
	ThenAdd                 // the residual [T, out] is added
	ThenSwiGLU              // the outputs are gate and up, one half each, of which [Gated] with [SiLU] is left, [T, out/2]
	ThenGeGLU               // likewise with [GELUTanh]
)

// gates tells whether half as many outputs are left.
func (p ProductThen) gates() bool { return p >= ThenSwiGLU }

// activation is what it gates with.
func (p ProductThen) activation() Activation {
	if p == ThenGeGLU {
		return GELUTanh
	}
	return SiLU
}

// ThenGated is the activation of a gate times up.
func ThenGated(a Activation) ProductThen {
	if a == GELUTanh {
		return ThenGeGLU
	}
	return ThenSwiGLU
}

// ProductOptions is what a [Product] takes along. The zero value is the product alone.
type ProductOptions struct {
	// Gain [in] makes x be normalized first, as [RMSNorm] does with Eps and Offset.
	Gain   *Node
	Eps    float64
	Offset bool

	// Low [T, n] and Tail [out, n] are an adapter's x·Aᵀ, of the normalized x, and B: low·tailᵀ is added.
	Low, Tail *Node

	Residual *Node // [T, out], with ThenAdd
	Then     ProductThen
}

// Product is x·Wᵀ for few rows x [T, in], as they are while text is generated, and a weight W [out, in] that is decoded on the
// way, so that only its four bits are read; inputs are the arrays of quant.Packed.Inputs. All that o has is of x's dtype, and so
// is the result.
//
// Sums are float32 and rounded once. The twin rounds decoded weights to the dtype, as [DequantizeColumns] does, and the
// product before what follows; the kernels do neither, but for gate and up.
//
// The kernels take bfloat16, an even out, an in of whole chunks of 64, blocks of 64 weights or more, n a multiple of 16, and
// T up to [MaxProductRows]. That of one row normalizes up to 8192 inputs itself.
func Product(l quant.Layout, x *Node, o ProductOptions, inputs ...*Node) *Node {
	const op = "Product"
	if len(l.Shape) != 2 {
		panic(fmt.Errorf("kernels: %s: the weight has shape %v, want a matrix", op, l.Shape))
	}
	out, in := l.Shape[0], l.Shape[1]
	rows, _ := checkMatrix(op, "x", x)
	check(op, "x", x, x.DType(), rows, in)
	n := 0
	if o.Low != nil && o.Tail != nil {
		_, n = checkMatrix(op, "low", o.Low)
		check(op, "low", o.Low, x.DType(), rows, n)
		check(op, "the tail", o.Tail, x.DType(), out, n)
	}
	switch {
	case (o.Low == nil) != (o.Tail == nil):
		panic(fmt.Errorf("kernels: %s: low and tail come together", op))
	case (o.Residual != nil) != (o.Then == ThenAdd):
		panic(fmt.Errorf("kernels: %s: a residual is what ThenAdd adds", op))
	case o.Residual != nil:
		check(op, "the residual", o.Residual, x.DType(), rows, out)
	case o.Then.gates() && out%2 != 0:
		panic(fmt.Errorf("kernels: %s: %d outputs are not gate and up", op, out))
	}
	k := productLaunch(l, x.DType(), rows, n, o).use(x.Graph())
	if k == nil {
		return productTwin(l, x, o, inputs)
	}
	if o.Gain != nil && !k.normalizes(o) {
		x, _, _ = RMSNorm(x, o.Gain, nil, 0, o.Eps, o.Offset)
	}
	return k.product(l, x, o, inputs)
}

func productTwin(l quant.Layout, x *Node, o ProductOptions, inputs []*Node) *Node {
	if o.Gain != nil {
		x, _, _ = rmsNormTwin(x, ConvertDType(o.Gain, x.DType()), nil, 0, o.Eps, o.Offset)
	}
	w := l.DequantizeNode(x.DType(), inputs...)
	if o.Tail != nil {
		x, w = Concatenate([]*Node{x, o.Low}, 1), Concatenate([]*Node{w, o.Tail}, 1)
	}
	return follow(matmul.Contract(x, 1, w, 1), o.Residual, o.Then)
}

// follow does to y, a product, what comes then.
func follow(y, residual *Node, then ProductThen) *Node {
	switch {
	case then == ThenAdd:
		return Add(y, residual)
	case then.gates():
		return gatedTwin(then.activation(), Rows{X: y}, 0)
	}
	return y
}

// What product.cuh, nf4_vector.cu and nf4_rows.cuh have.
const (
	productThreads = 256
	vectorTile     = 8    // bytes' rows that a block of nf4_vector takes at once
	vectorNormed   = 8192 // inputs that nf4_vector normalizes, in shared memory
	vectorBlocks   = 396  // of nf4_vector that run at once on the largest GPUs: three on each of 132 multiprocessors
	rowsTile       = 128  // bytes' rows of a block of nf4_rows
	rowsBlocks     = 264  // of nf4_rows that run at once
	rowsSlice      = 512  // inputs of x in shared memory
	rowsPad        = 8
	tableBytes     = 256 * 16 * 8
)

// productLaunch is the launch for x of that many rows and a tail of n columns; nil if the kernels do not take them.
func productLaunch(l quant.Layout, dtype dtypes.DType, rows, n int, o ProductOptions) *launch {
	d := dequantizeLaunch(l, dtype, 1, 0)
	if d == nil || rows == 0 || rows > MaxProductRows || n%16 != 0 {
		return nil
	}
	out, in := l.Shape[0], l.Shape[1]
	k := &launch{threads: productThreads}
	group := -1
	if l.NestedBlocksize > 0 {
		group = bits.TrailingZeros(uint(l.NestedBlocksize))
	}
	kind := d.sizes[5]
	k.sizes = []int32{int32(out / 2), int32(in), int32(n), int32(bits.TrailingZeros(uint(l.Blocksize / 64))), kind, int32(group)}
	if rows == 1 {
		k.kernel = "nf4_vector"
		k.sizes = append(k.sizes, int32(o.Then))
		if o.Gain != nil && in <= vectorNormed {
			k.shared = 2 * in
			k.sizes = append(k.sizes, 1, int32(math.Float32bits(float32(o.Eps))), flag(o.Offset))
		} else {
			k.sizes = append(k.sizes, 0, 0, 0)
		}
		k.grid[0] = min(vectorBlocks, ceilDiv(out/2, vectorTile))
		if o.Then.gates() {
			out /= 2
		}
		k.out = []shapes.Shape{shapes.Make(dtype, 1, out)}
		return k
	}
	tile := 32
	if rows <= 8 {
		tile = 8
	}
	k.kernel = fmt.Sprintf("nf4_rows%d", tile)
	k.shared = tableBytes + tile*(rowsSlice+rowsPad)*2
	blocks, parts := ceilDiv(out/2, rowsTile), ceilDiv(rows, tile)
	fours := ceilDiv(in, 256)
	each := ceilDiv(fours, max(1, min(fours, rowsBlocks/(blocks*parts)))) // of a split
	splits := ceilDiv(fours, each)
	k.grid = [3]int{blocks, splits * parts}
	k.sizes = append(k.sizes, int32(rows), int32(each), int32(splits))
	k.out = []shapes.Shape{shapes.Make(dtypes.Float32, splits, rows, out)}
	return k
}

// normalizes tells whether the launch, of [productLaunch], normalizes x.
func (k *launch) normalizes(o ProductOptions) bool {
	return o.Gain != nil && k.kernel == "nf4_vector" && k.shared > 0
}

// product checks what the twin checks too, and launches.
func (k *launch) product(l quant.Layout, x *Node, o ProductOptions, inputs []*Node) *Node {
	or := func(n *Node) *Node {
		if n == nil {
			return x // never read
		}
		return n
	}
	operands := append([]*Node{x}, decodeOperands(l, inputs)...)
	operands = append(operands, or(o.Low), or(o.Tail))
	if k.kernel == "nf4_vector" {
		gain := x // never read
		if k.normalizes(o) {
			gain = ConvertDType(o.Gain, x.DType())
			check("Product", "gain", gain, x.DType(), l.Shape[1])
		}
		return k.call(append(operands, or(o.Residual), gain)...)[0]
	}
	sum := ReduceSum(k.call(operands...)[0], 0)
	if o.Residual != nil {
		sum = Add(sum, wide(o.Residual))
	}
	y := ConvertDType(sum, x.DType())
	if o.Then.gates() {
		return gatedTwin(o.Then.activation(), Rows{X: y}, 0)
	}
	return y
}

// decodeOperands are codes and scales as the kernels of Product take them: always five, of which those of double
// quantization are not read without it.
func decodeOperands(l quant.Layout, inputs []*Node) []*Node {
	operands := packedOperands("Product", l, inputs)
	for len(operands) < 5 {
		operands = append(operands, inputs[1])
	}
	return operands
}
