package kernels

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/matmul"
	"github.com/loris-ml/loris/quant"
)

// Products in float8 E4M3 (arXiv:2209.05433; torch.float8_e4m3fn): both operands are rounded to nearest even, to three bits
// behind the leading one, and products added up in float32, or as the tensor cores of compute capability 9.0 do in their fast
// mode. An activation has a scale for each row, by the largest number in it; a weight has one. Scales are powers of two, so
// that dividing by them and multiplying by them is exact.

// Float8Max is the largest number of float8 E4M3.
const Float8Max = 448

// Float8Weight is a weight W [out, in] of [Float8Product]: a matrix of floats, or arrays of quant.Packed.Inputs.
type Float8Weight struct {
	Dense      *Node
	Layout     quant.Layout // of Packed
	Packed     []*Node
	Transposed bool // x·W in place of x·Wᵀ
}

// dims are k and n of a product [m, k] by [k, n] with the weight.
func (w Float8Weight) dims(op string) (k, n int) {
	if w.Dense != nil {
		n, k = checkMatrix(op, "the weight", w.Dense)
	} else if s := w.Layout.Shape; len(s) != 2 {
		panic(fmt.Errorf("kernels: %s: the weight has shape %v, want a matrix", op, s))
	} else {
		n, k = s[0], s[1]
	}
	if w.Transposed {
		return n, k
	}
	return k, n
}

// Float8Product is x·Wᵀ + low·tailᵀ, or, transposed, x·W + low·tailᵀ, of x rounded by rows and W as a whole to float8. The rows
// [T, out] (or [T, in]) are of x's dtype, and their factors the products of the scales of x's rows and of W. x is [T, in], or
// [T, out], or has more columns, of which the first count. low [T, n] and tail [out, n] (or [in, n]) are of x's dtype; nil is none.
//
// The kernels take bfloat16, packed weights as [DequantizeColumns] does, but with an out of multiples of 32, and other weights of
// multiples of 16 either way; without kernels the same numbers are computed in x's dtype. Beside packed weights low and tail ride
// along in float8, each as the sum of two numbers: that loses no more than bfloat16 does of the largest numbers in low's row and in
// tail.
func Float8Product(x *Node, w Float8Weight, low, tail *Node) Rows {
	const op = "Float8Product"
	rows, columns := checkMatrix(op, "x", x)
	k, _ := w.dims(op)
	if columns < k {
		panic(fmt.Errorf("kernels: %s: x has %d columns, want at least %d", op, columns, k))
	}
	rank := w.checkLow(op, x, low, tail)
	unit := w.unit()
	weight, ok := w.launch(x.DType(), rank)
	if rank > 0 && ok && weight != nil {
		if l := float8RowsLaunch(x.DType(), rows, columns, k, rank).use(x.Graph()); l != nil {
			own, factor := tailUnit(tail, unit)
			out := float8Call{l, weight}.call([]*Node{x, low, factor, unit}, w, unit, tail, own)
			return Rows{out[0], out[1]}
		}
	}
	if l := float8RowsLaunch(x.DType(), rows, columns, k, 0).use(x.Graph()); l != nil && ok {
		out := float8Call{l, weight}.call([]*Node{x, x, unit, unit}, w, unit, x, unit)
		return Rows{addLow(out[0], out[1], low, tail), out[1]}
	}
	return float8Twin(x, w, unit, low, tail)
}

// Float8NormProduct is [Float8Product] of h, for h, rstd [T] and low [T, n] of [RMSNorm] of x, gain and xa; without xa (nil) low is nil.
// tail is [out, n].
func Float8NormProduct(x, gain, xa *Node, eps float64, offset bool, w Float8Weight, tail *Node) (p Rows, rstd, low *Node) {
	const op = "Float8NormProduct"
	rows, hidden := checkMatrix(op, "x", x)
	k, _ := w.dims(op)
	if hidden != k {
		panic(fmt.Errorf("kernels: %s: x has %d columns, the weight takes %d", op, hidden, k))
	}
	if rank := w.checkLow(op, x, xa, tail); rank > 0 {
		l := float8NormLaunch(x.DType(), rows, hidden, rank, eps, offset).use(x.Graph())
		if weight, ok := w.launch(x.DType(), rank); ok && l != nil && weight != nil {
			gain = ConvertDType(gain, x.DType())
			check(op, "gain", gain, x.DType(), hidden)
			unit := w.unit()
			own, factor := tailUnit(tail, unit)
			out := float8Call{l, weight}.call([]*Node{x, gain, xa, factor, unit}, w, unit, tail, own)
			return Rows{out[0], out[1]}, out[2], out[3]
		}
	}
	h, rstd, _ := RMSNorm(x, gain, nil, 0, eps, offset)
	if xa != nil {
		low = ConvertDType(Mul(xa, InsertAxes(rstd, 1)), x.DType())
	}
	return Float8Product(h, w, low, tail), rstd, low
}

// checkLow returns the columns of low and tail, 0 without them.
func (w Float8Weight) checkLow(op string, x, low, tail *Node) (rank int) {
	if low == nil {
		return 0
	}
	_, rank = checkMatrix(op, "low", low)
	_, n := w.dims(op)
	check(op, "low", low, low.DType(), x.Shape().Dimensions[0], rank)
	check(op, "tail", tail, x.DType(), n, rank)
	return rank
}

// Float8 reports why a backend cannot compute products in float8 by kernels where it should: a GPU before compute capability
// 8.9 (Ada, Hopper), or one that was not opened through the seam. It compiles and runs one.
func Float8(b compute.Backend) error {
	named, ok := b.(interface{ PluginName() string })
	if !ok || !strings.Contains(named.PluginName(), "cuda") {
		return nil // the twin computes the same numbers
	}
	if !Available(b) {
		return errors.New("the backend was not opened through the seam")
	}
	x := make([][]float32, 16)
	for i := range x {
		x[i] = make([]float32, 64)
		for j := range x[i] {
			x[i][j] = float32(i + 1)
		}
	}
	out, err := CallOnce(b, func(x *Node) *Node {
		x = ConvertDType(x, dtypes.BFloat16)
		return Float8Product(x, Float8Weight{Dense: x}, nil, nil).wide()
	}, x)
	if err != nil {
		return err
	}
	y, ok := out.Value().([][]float32)
	if !ok || len(y) != 16 || y[1][2] != 2*3*64 {
		return fmt.Errorf("a product came out as %v", y)
	}
	return nil
}

// unit is the weight's scale, a power of two, a float32 scalar. Of double-quantized scales it is taken from their bounds, not
// decoded.
func (w Float8Weight) unit() *Node {
	var most *Node
	switch {
	case w.Dense != nil:
		most = wide(ReduceAllMax(Abs(w.Dense)))
	case w.Layout.NestedBlocksize == 0:
		most = ReduceAllMax(Abs(w.Packed[1])) // the largest number of a code is 1
	default: // as is the largest one of the scales' codes
		most = ReduceAllMax(Add(Abs(w.Packed[2]), Abs(w.Packed[3])))
	}
	return powerFor(most)
}

// tailUnit is the scale of tail, a power of two, and factor what the tail's and the weight's make for low: low·factor stands beside x.
// The tail's largest number is 448/tailRoom, so that low is not the smaller of the two while adapters are small.
func tailUnit(tail, unit *Node) (own, factor *Node) {
	const tailRoom = 32
	own = MulScalar(powerFor(wide(ReduceAllMax(Abs(tail)))), tailRoom)
	return own, Div(own, unit)
}

// powerFor is the smallest power of two by which numbers up to most can be divided to be at most Float8Max; the same bits as
// scaleBits in fp8.cuh.
func powerFor(most *Node) *Node {
	const up, exponent, down = 0x1fffff, 0x7f800000, 8 << 23
	b := Bitcast(MaxScalar(most, 0x1p-100), dtypes.Uint32)
	b = BitwiseAnd(AddScalar(b, up), Scalar(b.Graph(), dtypes.Uint32, exponent))
	return Bitcast(SubScalar(b, down), dtypes.Float32)
}

// RoundFloat8 rounds numbers to those of float8 E4M3, to nearest even; beyond Float8Max they are that. The dtype stays: float32
// and bfloat16 hold them.
func RoundFloat8(x *Node) *Node {
	w := wide(x)
	most := MinScalar(Abs(w), Float8Max)
	power := Bitcast(BitwiseAnd(Bitcast(most, dtypes.Uint32), Scalar(x.Graph(), dtypes.Uint32, 0x7f800000)), dtypes.Float32)
	step := MulScalar(MaxScalar(power, 0x1p-6), 0.125) // between neighbours
	return ConvertDType(Mul(Sign(w), Mul(Round(Div(most, step)), step)), x.DType())
}

// float8Twin computes in x's dtype.
func float8Twin(x *Node, w Float8Weight, unit, low, tail *Node) Rows {
	weight := w.Dense
	if weight == nil {
		weight = w.Layout.DequantizeNode(dtypes.Float32, w.Packed...)
	}
	weight = ConvertDType(RoundFloat8(Div(wide(weight), unit)), x.DType())
	contract := 1
	if w.Transposed {
		contract = 0
	}
	var beside *Node
	if low != nil && w.Dense == nil {
		_, factor := tailUnit(tail, unit)
		beside = Mul(wide(low), factor)
	}
	rows, s := float8Rows(columns(x, 0, weight.Shape().Dimensions[contract]), beside)
	s = Mul(s, unit)
	return Rows{addLow(matmul.Contract(rows, 1, weight, contract), s, low, tail), s}
}

// addLow is y + (low/s)·tailᵀ.
func addLow(y, s, low, tail *Node) *Node {
	if low == nil {
		return y
	}
	return Add(y, matmul.Contract(ConvertDType(Div(wide(low), InsertAxes(s, 1)), low.DType()), 1, tail, 1))
}

// float8Rows are the rows of x [T, n], divided by a scale and rounded, and the scales [T] float32, which are for what stands beside x,
// too, unless that is nil.
func float8Rows(x, beside *Node) (rows, scale *Node) {
	most := ReduceMax(Abs(wide(x)), 1)
	if beside != nil {
		most = Max(most, ReduceMax(Abs(beside), 1))
	}
	s := powerFor(most)
	return ConvertDType(RoundFloat8(Div(wide(x), InsertAxes(s, 1))), x.DType()), s
}
