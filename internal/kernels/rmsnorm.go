package kernels

import (
	"fmt"
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// RMSNorm (arXiv:1910.07467) of the rows of x [T, H], which also applies the norm to a product that was taken before it:
//
//	rstd [T]     = 1 / sqrt(mean(x²) + eps), float32
//	h [T, H+pad] = [x·rstd·gain | xa·rstd | 0], of x's dtype
//	low [T, n]   = xa·rstd, of x's dtype
//
// gain is [H], of any dtype and used in x's; x·rstd is rounded to x's dtype before it is multiplied. With an offset the gain is
// one more, and x·rstd·(1+gain) is computed in float32 and rounded once, as in Gemma. xa [T, n] float32 is
// x·(gain·A)ᵀ for an adapter's A, so that low is h·Aᵀ without a second reading of h; n is at most pad. Without xa (nil)
// low is nil.
//
// The kernel takes bfloat16, and H a multiple of 8 up to 16384.
func RMSNorm(x, gain, xa *Node, pad int, eps float64, offset bool) (h, rstd, low *Node) {
	const op = "RMSNorm"
	rows, hidden := checkMatrix(op, "x", x)
	checkPad(op, pad)
	gain = ConvertDType(gain, x.DType())
	check(op, "gain", gain, x.DType(), hidden)
	n := 0
	if xa != nil {
		_, n = checkMatrix(op, "xa", xa)
		check(op, "xa", xa, dtypes.Float32, rows, n)
		if n > pad || n == 0 {
			panic(fmt.Errorf("kernels: %s: xa has %d columns, want 1 to pad, which is %d", op, n, pad))
		}
	}
	k := rmsNormLaunch(x.DType(), rows, hidden, n, pad, eps, offset).use(x.Graph())
	if k == nil {
		return rmsNormTwin(x, gain, xa, pad, eps, offset)
	}
	if xa == nil {
		out := k.call(x, gain, gain) // the last is never read
		return out[0], out[1], nil
	}
	out := k.call(x, gain, xa)
	return out[0], out[1], out[2]
}

func rmsNormTwin(x, gain, xa *Node, pad int, eps float64, offset bool) (h, rstd, low *Node) {
	d := x.Shape().Dimensions
	w := wide(x)
	r := Rsqrt(AddScalar(ReduceAndKeep(Mul(w, w), ReduceMean, 1), eps))
	parts := []*Node{Mul(ConvertDType(Mul(w, r), x.DType()), InsertAxes(gain, 0))}
	if offset {
		parts[0] = ConvertDType(Mul(Mul(w, r), OnePlus(wide(InsertAxes(gain, 0)))), x.DType())
	}
	if xa != nil {
		low = ConvertDType(Mul(xa, r), x.DType())
		parts = append(parts, low)
	}
	h = parts[0]
	if len(parts) > 1 {
		h = Concatenate(parts, 1)
	}
	return padTo(h, d[1]+pad), Reshape(r, d[0]), low
}

// rowThreads are the threads of a block that keeps a row of columns numbers in registers, up to 4 chunks a thread (HELD in
// rmsnorm.cu); 0 if the row is too long. Of short rows two chunks a thread are best; of long ones four, in small blocks, of which
// more are at work at once.
func rowThreads(columns int) int {
	if columns%chunk != 0 || columns > 512*4*chunk || columns == 0 {
		return 0
	}
	if columns <= 64*2*chunk {
		return 64
	}
	threads := 128
	for threads*4*chunk < columns {
		threads *= 2
	}
	return threads
}

func rmsNormLaunch(dtype dtypes.DType, rows, hidden, n, pad int, eps float64, offset bool) *launch {
	threads := rowThreads(hidden)
	if dtype != dtypes.BFloat16 || threads == 0 || rows == 0 || rows > maxRows {
		return nil
	}
	k := &launch{
		kernel: "rmsnorm", grid: [3]int{rows}, threads: threads,
		sizes: []int32{int32(hidden / chunk), int32(n), int32(pad / chunk), int32(math.Float32bits(float32(eps))), flag(offset)},
		out:   []shapes.Shape{shapes.Make(dtype, rows, hidden+pad), shapes.Make(dtypes.Float32, rows), shapes.Make(dtype, rows, n)},
	}
	if n == 0 {
		k.out[2] = shapes.Make(dtype, 1) // never written
	}
	return k
}

// RMSNormBackward is the gradient of [RMSNorm] with respect to x, added to the one that arrives past it:
//
//	dx [T, H+pad] = [dres + rstd·(gain·dh − x·rstd²·mean(gain·dh·x)) | 0], of x's dtype.
//
// x [T, H], rstd [T] float32, gain [H] and offset are those of the forward (with an offset, gain above is one more), dh [T, H] is the gradient of its first H columns, dres
// [T, H] or more columns, of which the first H count, that of the residual stream; nil is none. What lies between is
// computed in float32.
//
// The kernel takes what that of RMSNorm takes, and dres of a multiple of 8 columns.
func RMSNormBackward(x, rstd, gain, dh, dres *Node, pad int, offset bool) *Node {
	return ScaledRMSNormBackward(x, rstd, gain, Rows{X: dh}, dres, pad, offset)
}

// ScaledRMSNormBackward is [RMSNormBackward] of a dh whose rows have factors.
func ScaledRMSNormBackward(x, rstd, gain *Node, dh Rows, dres *Node, pad int, offset bool) *Node {
	const op = "RMSNormBackward"
	rows, hidden := checkMatrix(op, "x", x)
	checkPad(op, pad)
	gain = ConvertDType(gain, x.DType())
	check(op, "gain", gain, x.DType(), hidden)
	check(op, "rstd", rstd, dtypes.Float32, rows)
	check(op, "dh", dh.X, x.DType(), rows, hidden)
	dh.check(op, rows)
	residual := 0
	if dres != nil {
		_, residual = checkMatrix(op, "dres", dres)
		check(op, "dres", dres, x.DType(), rows, max(residual, hidden))
	}
	k := rmsNormBackwardLaunch(x.DType(), rows, hidden, residual, pad, offset, dh.Scale != nil).use(x.Graph())
	if k == nil {
		return rmsNormBackwardTwin(x, rstd, gain, dh, dres, pad, offset)
	}
	if dres == nil {
		dres = dh.X // never read
	}
	return k.call(x, rstd, gain, dh.X, dres, dh.factors())[0]
}

func rmsNormBackwardTwin(x, rstd, gain *Node, dh Rows, dres *Node, pad int, offset bool) *Node {
	hidden := x.Shape().Dimensions[1]
	w, r := wide(x), InsertAxes(rstd, 1)
	factor := wide(InsertAxes(gain, 0))
	if offset {
		factor = OnePlus(factor)
	}
	a := Mul(dh.wide(), factor)
	mean := Mul(ReduceAndKeep(Mul(a, w), ReduceMean, 1), Mul(r, r))
	d := Mul(r, Sub(a, Mul(w, mean)))
	if dres != nil {
		d = Add(wide(columns(dres, 0, hidden)), d)
	}
	return padTo(ConvertDType(d, x.DType()), hidden+pad)
}

func rmsNormBackwardLaunch(dtype dtypes.DType, rows, hidden, residual, pad int, offset, scaled bool) *launch {
	threads := rowThreads(hidden)
	if dtype != dtypes.BFloat16 || threads == 0 || rows == 0 || rows > maxRows || residual%chunk != 0 {
		return nil
	}
	return &launch{
		kernel: "rmsnorm_backward", grid: [3]int{rows}, threads: threads,
		sizes: []int32{int32(hidden / chunk), int32(residual / chunk), int32(pad / chunk), flag(offset), flag(scaled)},
		out:   []shapes.Shape{shapes.Make(dtype, rows, hidden+pad)},
	}
}

// flag is a bool as a kernel takes it.
func flag(b bool) int32 {
	if b {
		return 1
	}
	return 0
}
