package kernels

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/seam"
)

// SwiGLU (arXiv:2002.05202) of gateUp [T, 2F], gate and up side by side: [silu(gate)·up | 0], [T, F+pad], of gateUp's dtype;
// computed in float32.
//
// The kernel takes bfloat16, and F a multiple of 8.
func SwiGLU(gateUp *Node, pad int) *Node {
	const op = "SwiGLU"
	rows, f := checkGateUp(op, gateUp)
	checkPad(op, pad)
	if k := swiGLULaunch(gateUp.DType(), rows, f, pad).use(gateUp.Graph()); k != nil {
		return k.call(gateUp)[0]
	}
	return swiGLUTwin(gateUp, pad)
}

func checkGateUp(op string, gateUp *Node) (rows, f int) {
	rows, f = checkMatrix(op, "gateUp", gateUp)
	if f%2 != 0 {
		panic(fmt.Errorf("kernels: %s: gateUp has %d columns, want an even number", op, f))
	}
	return rows, f / 2
}

func swiGLUTwin(gateUp *Node, pad int) *Node {
	f := gateUp.Shape().Dimensions[1] / 2
	gate, up := wide(columns(gateUp, 0, f)), wide(columns(gateUp, f, 2*f))
	return padTo(ConvertDType(Mul(Mul(gate, Sigmoid(gate)), up), gateUp.DType()), f+pad)
}

func swiGLULaunch(dtype dtypes.DType, rows, f, pad int) *launch {
	const threads = 256
	blocks := max(1, ceilDiv(max(f, pad)/chunk, threads)) // for a row
	if dtype != dtypes.BFloat16 || f%chunk != 0 || f == 0 || rows == 0 || rows*blocks > maxRows {
		return nil
	}
	return &launch{
		kernel: "swiglu", grid: [3]int{rows * blocks}, threads: threads,
		sizes: []int32{int32(f / chunk), int32(pad / chunk), int32(blocks)},
		out:   []shapes.Shape{shapes.Make(dtype, rows, f+pad)},
	}
}

// MaxSwiGLURank is the largest adapter rank that the kernel of [SwiGLUBackward] takes.
const MaxSwiGLURank = 16

// SwiGLUBackward is the backward of [SwiGLU], together with the products that adapters of rank r on gate and up (before it)
// and down (behind it) need from what it computes:
//
//	dGateUp [T, 2F+pad] = [dgate | dup | 0], of gateUp's dtype
//	dLow [T, 2r]        = [dgate·B_gate | dup·B_up]
//	db [2F, r]          = [dgateᵀ·low_gate ; dupᵀ·low_up]
//	da [F, r]           = silu(gate)·up, transposed, times p
//
// the last three in float32, of dgate, dup and silu(gate)·up as rounded to gateUp's dtype. gateUp [T, 2F] is that of the
// forward, dact [T, F] the gradient of its result; b [2F, r] are B_gate over B_up, low [T, 2r] the products of the input
// with A_gate and A_up, p [T, r] that of down's arriving gradient with B_down. So db is the gradient of b, and da that of
// A_down, transposed.
//
// The kernel takes bfloat16, F a multiple of 128 and r up to [MaxSwiGLURank]; it adds up dLow in no fixed order, so its
// last bits may differ from run to run.
func SwiGLUBackward(gateUp, dact, b, low, p *Node, pad int) (dGateUp, dLow, db, da *Node) {
	const op = "SwiGLUBackward"
	dtype := gateUp.DType()
	rows, f := checkGateUp(op, gateUp)
	checkPad(op, pad)
	_, r := checkMatrix(op, "b", b)
	check(op, "dact", dact, dtype, rows, f)
	check(op, "b", b, dtype, 2*f, r)
	check(op, "low", low, dtype, rows, 2*r)
	check(op, "p", p, dtype, rows, r)
	if k := swiGLUBackwardLaunch(dtype, rows, f, r, pad).use(gateUp.Graph()); k != nil {
		return swiGLUBackwardCall(k, gateUp, dact, b, low, p)
	}
	return swiGLUBackwardTwin(gateUp, dact, b, low, p, pad)
}

func swiGLUBackwardTwin(gateUp, dact, b, low, p *Node, pad int) (dGateUp, dLow, db, da *Node) {
	f, r := dact.Shape().Dimensions[1], p.Shape().Dimensions[1]
	narrow := func(x *Node) *Node { return ConvertDType(x, gateUp.DType()) }
	gate, up, d := wide(columns(gateUp, 0, f)), wide(columns(gateUp, f, 2*f)), wide(dact)
	s := Sigmoid(gate)
	silu := Mul(gate, s)
	act := narrow(Mul(silu, up))
	dgate := narrow(Mul(Mul(Mul(d, up), s), OnePlus(Mul(gate, OneMinus(s)))))
	dup := narrow(Mul(d, silu))

	both := Concatenate([]*Node{dgate, dup}, 1)
	bGate, bUp := Slice(b, AxisRange(0, f)), Slice(b, AxisRange(f, 2*f))
	dLow = Concatenate([]*Node{product(dgate, 1, bGate), product(dup, 1, bUp)}, 1)
	db = Concatenate([]*Node{product(dgate, 0, columns(low, 0, r)), product(dup, 0, columns(low, r, 2*r))}, 0)
	return padTo(both, 2*f+pad), dLow, db, product(act, 0, p)
}

// product contracts an axis of x with the first one of y, and returns float32.
func product(x *Node, axis int, y *Node) *Node {
	return Dot(wide(x), wide(y)).General([]int{axis}, nil, []int{0}, nil)
}

// What swiglu_backward.cu has.
const (
	swiGLUColumns = 128 // of F that a block owns
	swiGLURows    = 64  // tokens that it takes at once
	swiGLUThreads = 256
	swiGLUShared  = 2 * ((3*swiGLURows+2*MaxSwiGLURank)*(swiGLUColumns+8) + swiGLURows*(2*MaxSwiGLURank+8) + swiGLURows*(MaxSwiGLURank+8))
)

// swiGLUBlocks is how many blocks run at once on the largest GPUs: two on each of 132 multiprocessors.
const swiGLUBlocks = 264

func swiGLUBackwardLaunch(dtype dtypes.DType, rows, f, r, pad int) *launch {
	if dtype != dtypes.BFloat16 || f%swiGLUColumns != 0 || f == 0 || rows == 0 || rows > maxRows-swiGLURows || r > MaxSwiGLURank || r == 0 {
		return nil
	}
	stripes := f / swiGLUColumns
	tiles := ceilDiv(rows, swiGLURows)
	perSplit := ceilDiv(tiles, max(1, swiGLUBlocks/stripes)) // tiles
	splits := ceilDiv(tiles, perSplit)
	return &launch{
		kernel: "swiglu_backward", grid: [3]int{stripes, splits}, threads: swiGLUThreads, shared: swiGLUShared,
		sizes: []int32{int32(f), int32(rows), int32(perSplit * swiGLURows), int32(pad / chunk)},
		out: []shapes.Shape{
			shapes.Make(dtype, rows, 2*f+pad), shapes.Make(dtypes.Float32, rows, 2*MaxSwiGLURank),
			shapes.Make(dtypes.Float32, splits, 2*f, MaxSwiGLURank), shapes.Make(dtypes.Float32, splits, f, MaxSwiGLURank),
		},
		aliases: []seam.Alias{{Result: 1, Operand: 5}}, // dLow is added to zeros
	}
}

// swiGLUBackwardCall widens the factors to the kernel's rank, and cuts the results back.
func swiGLUBackwardCall(k *launch, gateUp, dact, b, low, p *Node) (dGateUp, dLow, db, da *Node) {
	r := p.Shape().Dimensions[1]
	const full = MaxSwiGLURank
	if r < full {
		low = Concatenate([]*Node{padTo(columns(low, 0, r), full), padTo(columns(low, r, 2*r), full)}, 1)
		b, p = padTo(b, full), padTo(p, full)
	}
	out := k.call(gateUp, dact, b, low, p, Zeros(gateUp.Graph(), k.out[1]))
	dLow, db, da = out[1], ReduceSum(out[2], 0), ReduceSum(out[3], 0)
	if r < full {
		dLow = Concatenate([]*Node{columns(dLow, 0, r), columns(dLow, full, full+r)}, 1)
		db, da = columns(db, 0, r), columns(da, 0, r)
	}
	return out[0], dLow, db, da
}
