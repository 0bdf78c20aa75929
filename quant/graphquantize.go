package quant

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// Quantize4BitNode encodes a weight that lies on the device: x, of any shape with n values and dtype Float32, BFloat16 or
// Float16, in blocks of blocksize. The results are codes uint8 [(n+1)/2] as half-planes and absmax float32
// [ceil(n/blocksize)], with the bytes that [NewPacked] makes of [Quantize4Bit]'s, and firstBad, an int64 scalar: the index
// of the first value that is NaN or infinite, n if there is none; if there is one, the other results mean nothing. What
// reads codes and absmax is Layout{QuantType: qt, Blocksize: blocksize, Shape: x's}. For double quantization give the
// downloaded absmax, 1/blocksize of the values, to [QuantizeAbsmax].
//
// Scales below float32's normal range (1.2e-38) may come out as 0 on devices that flush subnormal numbers, as XLA does.
// It panics on an unknown type or blocksize, as GoMLX's graph functions do.
func Quantize4BitNode(x *Node, qt QuantType, blocksize int) (codes, absmax, firstBad *Node) {
	book, err := qt.book()
	if err == nil {
		blocksize, err = checkBlocksize(blocksize)
	}
	if err == nil {
		err = checkDType(x.DType())
	}
	if err != nil {
		panic(fmt.Errorf("quant: quantize: %w", err))
	}
	n := x.Shape().Size()
	flat := ConvertDType(Reshape(x, n), dtypes.Float32)
	firstBad = firstNotFinite(flat)
	scaled, absmax := scaleBlocks(flat, blocksize)
	if n%2 == 1 {
		scaled = Concatenate([]*Node{scaled, Zeros(x.Graph(), shapes.Make(dtypes.Float32, 1))}, 0)
	}
	q := book.nearestNode(scaled)
	half := (n + 1) / 2
	low, high := SliceAxis(q, 0, AxisRange(0, half)), SliceAxis(q, 0, AxisRange(half, 2*half))
	return BitwiseOr(low, BitwiseShiftLeftScalar(high, uint8(4))), absmax, firstBad
}

// firstNotFinite returns the index of x's first NaN or infinity, the length of x if there is none.
func firstNotFinite(x *Node) *Node {
	n := x.Shape().Size()
	index := Iota(x.Graph(), shapes.Make(dtypes.Int64, n), 0)
	return ReduceAllMin(Where(IsFinite(x), Scalar(x.Graph(), dtypes.Int64, n), index))
}

// scaleBlocks returns flat [n] divided by the absmax of its blocks, and those as encodeBlock stores them: full blocks are
// multiplied by the reciprocal, a short one is divided.
func scaleBlocks(flat *Node, blocksize int) (scaled, absmax *Node) {
	g, n := flat.Graph(), flat.Shape().Size()
	full := n / blocksize * blocksize
	least := Scalar(g, dtypes.Float32, tiny)
	var scaledParts, absmaxParts []*Node
	if full > 0 {
		x := Reshape(SliceAxis(flat, 0, AxisRange(0, full)), -1, blocksize)
		a := ReduceMax(Abs(x), 1)
		// A device that flushes subnormal numbers takes tiny for 0: its reciprocal is never to meet a block of zeros.
		inverse := Where(Equal(a, ScalarZero(g, dtypes.Float32)), ScalarZero(g, dtypes.Float32), Inverse(Max(a, least)))
		scaledParts = append(scaledParts, Reshape(Mul(x, InsertAxes(inverse, -1)), full))
		absmaxParts = append(absmaxParts, a)
	}
	if full < n {
		x := SliceAxis(flat, 0, AxisRange(full, n))
		a := ReduceAllMax(Abs(x))
		a = Where(Equal(a, ScalarZero(g, dtypes.Float32)), least, Max(a, least))
		quotient := Div(x, a)
		scaledParts = append(scaledParts, Where(Equal(x, ScalarZero(g, dtypes.Float32)), x, quotient))
		absmaxParts = append(absmaxParts, Reshape(a, 1))
	}
	return join(scaledParts), join(absmaxParts)
}

func join(parts []*Node) *Node {
	if len(parts) == 1 {
		return parts[0]
	}
	return Concatenate(parts, 0)
}

// nearestNode returns the code of each scaled value, uint8: a binary search among the fifteen boundaries, a comparison
// for each bit of the rank, the highest first.
func (c *codebook) nearestNode(s *Node) *Node {
	g := s.Graph()
	var bits []*Node // known bits of the rank
	rank := Zeros(g, shapes.Make(dtypes.Uint8, s.Shape().Dimensions...))
	for step := 8; step > 0; step /= 2 {
		candidates := make([]*Node, 0, 16/step/2)
		for i := step - 1; i < 15; i += 2 * step {
			candidates = append(candidates, Scalar(g, dtypes.Float32, c.bounds[i]))
		}
		for i := len(bits) - 1; i >= 0; i-- { // the lowest known bit tells neighbours apart
			for k := range len(candidates) / 2 {
				candidates[k] = Where(bits[i], candidates[2*k+1], candidates[2*k])
			}
			candidates = candidates[:len(candidates)/2]
		}
		above := GreaterThan(s, candidates[0])
		bits = append(bits, above)
		rank = BitwiseOr(rank, Where(above, Scalar(g, dtypes.Uint8, step), Scalar(g, dtypes.Uint8, 0)))
	}
	codes := [16]uint8(c.lowCodes[:16])
	if codes == nf4Order { // codes are ranks
		return rank
	}
	return Gather(Const(g, codes[:]), InsertAxes(rank, -1))
}

// Search is how [QuantizeBlockwiseNode] finds the number nearest to a value.
type Search int

const (
	// ByTable looks up a table of 65536 steps over [-1, 1], as bitsandbytes' CPU kernel and [QuantizeBlockwise] do.
	ByTable Search = iota
	// Nearest compares with the midpoints of the numbers, as bitsandbytes' CUDA kernels do; a tie goes to the smaller
	// number, and a negative value whose nearest number is 0 gets the number below, as in its optimizers. What its
	// approximate divisions make of values within an ulp or so of a midpoint may differ.
	Nearest
)

// QuantizeBlockwiseNode is [QuantizeBlockwise] inside a program, for x float32 of n values: codes uint8 [n] and absmax
// float32 [ceil(n/blocksize)]. numbers are ascending. With [ByTable] the results have the host's bytes. A NaN or infinity
// spoils its block.
func QuantizeBlockwiseNode(x *Node, numbers [256]float32, blocksize int, s Search) (codes, absmax *Node) {
	g, n := x.Graph(), x.Shape().Size()
	count := blocks(n, blocksize)
	flat := Reshape(x, n)
	if short := count*blocksize - n; short > 0 {
		flat = Concatenate([]*Node{flat, Zeros(g, shapes.Make(dtypes.Float32, short))}, 0)
	}
	rows := Reshape(flat, count, blocksize)
	absmax = ReduceMax(Abs(rows), 1)
	zero := ScalarZero(g, dtypes.Float32)
	isZero := Equal(absmax, zero)
	inverse := Where(isZero, zero, Inverse(absmax))
	shift := Where(isZero, Scalar(g, dtypes.Float32, -1), zero) // a block of zeros is all -1, which has code 0
	scaled := Add(Mul(rows, InsertAxes(inverse, -1)), InsertAxes(shift, -1))
	scaled = ClipScalar(scaled, -1, 1)
	if s == Nearest {
		codes = nearestOf(scaled, &numbers)
	} else {
		codes = tableStep(scaled, stepCodes(&numbers))
	}
	return SliceAxis(Reshape(codes, count*blocksize), 0, AxisRange(0, n)), absmax
}

// tableStep is dynamicStep and the look-up: float64 holds the product and the sum, which are then rounded once.
func tableStep(scaled *Node, steps *[dynamicSteps]uint8) *Node {
	g := scaled.Graph()
	half := MulScalar(AddScalar(scaled, 1), 0.5)
	at := ConvertDType(AddScalar(MulScalar(ConvertDType(half, dtypes.Float64), dynamicSteps-1), 0.5), dtypes.Float32)
	return Gather(Const(g, steps[:]), InsertAxes(ConvertDType(at, dtypes.Int32), -1))
}

// nearestOf finds codes by a binary search among the midpoints.
func nearestOf(scaled *Node, numbers *[256]float32) *Node {
	g := scaled.Graph()
	bounds := make([]float32, 256)
	zero := -1 // code of 0, if it has neighbours on both sides
	for i, v := range numbers {
		if i < 255 {
			bounds[i] = (v + numbers[i+1]) * 0.5
		}
		if v == 0 && i > 0 {
			zero = i
		}
	}
	table := Const(g, bounds)
	code := Zeros(g, shapes.Make(dtypes.Int32, scaled.Shape().Dimensions...))
	for step := 128; step > 0; step /= 2 {
		bound := Gather(table, InsertAxes(AddScalar(code, step-1), -1))
		code = Add(code, Where(GreaterThan(scaled, bound), Scalar(g, dtypes.Int32, step), Scalar(g, dtypes.Int32, 0)))
	}
	if zero > 0 {
		flips := LogicalAnd(Equal(code, Scalar(g, dtypes.Int32, zero)), LessThan(scaled, ScalarZero(g, dtypes.Float32)))
		code = Where(flips, Scalar(g, dtypes.Int32, zero-1), code)
	}
	return ConvertDType(code, dtypes.Uint8)
}

// DequantizeBlockwiseNode is [DequantizeBlockwise] inside a program: codes uint8 [n] and absmax float32
// [ceil(n/blocksize)] to float32 [n], with the host's bits. It panics if they do not fit.
func DequantizeBlockwiseNode(codes, absmax *Node, numbers [256]float32, blocksize int) *Node {
	n := codes.Shape().Size()
	checkVector("codes", codes, dtypes.Uint8, n)
	checkVector("absmax", absmax, dtypes.Float32, blocks(n, blocksize))
	values := Gather(Const(codes.Graph(), numbers[:]), InsertAxes(codes, -1))
	if n%blocksize == 0 {
		return Reshape(Mul(Reshape(values, n/blocksize, blocksize), InsertAxes(absmax, -1)), n)
	}
	return Mul(values, repeatEach(absmax, blocksize, n))
}
