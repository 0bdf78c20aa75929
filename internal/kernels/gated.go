package kernels

import (
	"fmt"
	"math"
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/seam"
)

// Activation is what is applied to the gate of a gated activation (arXiv:2002.05202).
type Activation int

const (
	SiLU     Activation = iota // x·sigmoid(x): SwiGLU
	GELUTanh                   // x/2·(1+tanh(sqrt(2/π)·(x+0.044715x³))), transformers' gelu_pytorch_tanh: GeGLU
)

// kernel is how the kernels' names begin.
func (a Activation) kernel() string { return [...]string{"swiglu", "geglu"}[a] }

// sigmoid returns s such that the activation is x·s, and the factor by which the slope of the argument of its sigmoid
// exceeds 1; nil where that is 1. x is in float32.
func (a Activation) sigmoid(x *Node) (s, slope *Node) {
	if a == SiLU {
		return Sigmoid(x), nil
	}
	const cube = 0.044715
	twice, square := 2*math.Sqrt(2/math.Pi), Mul(x, x)
	return Sigmoid(MulScalar(Mul(x, OnePlus(MulScalar(square, cube))), twice)), MulScalar(OnePlus(MulScalar(square, 3*cube)), twice)
}

// slope is the derivative of the activation at x, for what sigmoid returned.
func slope(x, s, inner *Node) *Node {
	d := Mul(x, OneMinus(s))
	if inner != nil {
		d = Mul(d, inner)
	}
	return Mul(s, OnePlus(d))
}

// Gated is the activation of a gate times up, for gateUp [T, 2F], gate and up side by side: [act(gate)·up | 0], [T, F+pad],
// of gateUp's dtype; computed in float32.
//
// The kernel takes bfloat16, and F a multiple of 8.
func Gated(a Activation, gateUp *Node, pad int) *Node { return ScaledGated(a, Rows{X: gateUp}, pad) }

// ScaledGated is [Gated] of rows with factors.
func ScaledGated(a Activation, gateUp Rows, pad int) *Node {
	const op = "Gated"
	rows, f := checkGateUp(op, gateUp.X)
	checkPad(op, pad)
	gateUp.check(op, rows)
	if k := gatedLaunch(a, gateUp.X.DType(), rows, f, pad, gateUp.Scale != nil).use(gateUp.X.Graph()); k != nil {
		return k.call(gateUp.X, gateUp.factors())[0]
	}
	return gatedTwin(a, gateUp, pad)
}

func checkGateUp(op string, gateUp *Node) (rows, f int) {
	rows, f = checkMatrix(op, "gateUp", gateUp)
	if f%2 != 0 {
		panic(fmt.Errorf("kernels: %s: gateUp has %d columns, want an even number", op, f))
	}
	return rows, f / 2
}

func gatedTwin(a Activation, gateUp Rows, pad int) *Node {
	f := gateUp.X.Shape().Dimensions[1] / 2
	both := gateUp.wide()
	gate, up := columns(both, 0, f), columns(both, f, 2*f)
	s, _ := a.sigmoid(gate)
	return padTo(ConvertDType(Mul(Mul(gate, s), up), gateUp.X.DType()), f+pad)
}

func gatedLaunch(a Activation, dtype dtypes.DType, rows, f, pad int, scaled bool) *launch {
	const threads = 256
	blocks := max(1, ceilDiv(max(f, pad)/chunk, threads)) // for a row
	if dtype != dtypes.BFloat16 || f%chunk != 0 || f == 0 || rows == 0 || rows*blocks > maxRows {
		return nil
	}
	return &launch{
		kernel: a.kernel(), grid: [3]int{rows * blocks}, threads: threads,
		sizes: []int32{int32(f / chunk), int32(pad / chunk), int32(blocks), flag(scaled)},
		out:   []shapes.Shape{shapes.Make(dtype, rows, f+pad)},
	}
}

// GatedBackward is the backward of [Gated], together with the products that adapters of rank r on gate and up (before it)
// and down (behind it) need from what it computes:
//
//	dGateUp [T, 2F+pad] = [dgate | dup | 0], of gateUp's dtype
//	dLow [T, 2r]        = [dgate·B_gate | dup·B_up]
//	db [parts, 2F, r]   = [dgateᵀ·low_gate ; dupᵀ·low_up], to be added up over the parts
//	da [F, r]           = act(gate)·up, transposed, times p
//
// the last three in float32, of dgate, dup and act(gate)·up as rounded to gateUp's dtype. gateUp [T, 2F] is that of the
// forward, dact [T, F] the gradient of its result; b [2F, r] are B_gate over B_up, low [T, 2r] the products of the input
// with A_gate and A_up, p [T, r] that of down's arriving gradient with B_down. So db is the gradient of b, and da that of
// A_down, transposed. Where act(gate)·up went through dropout before A_down, behind has it, and to dact is added here what the
// adapter adds to the gradient of act(gate)·up, the kept part of p·A; da is of what is kept. Else it is nil.
//
// The kernel takes bfloat16, F a multiple of 128 and r up to [MaxLowRank]; it adds up dLow in no fixed order, so its
// last bits may differ from run to run.
func GatedBackward(a Activation, gateUp, dact, b, low, p *Node, pad int, behind *Behind) (dGateUp, dLow, db, da *Node) {
	return ScaledGatedBackward(a, Rows{X: gateUp}, Rows{X: dact}, b, low, p, pad, behind)
}

// Behind is an adapter behind an activation and dropout: A [r, F] is its A, times what the kept elements grow by.
type Behind struct {
	Dropout
	A *Node
}

func (b *Behind) check(op string, dtype dtypes.DType, rows, f, r int) {
	if b == nil {
		return
	}
	b.Dropout.check(op, rows)
	if len(b.Ranks) != 1 {
		panic(fmt.Errorf("kernels: %s: dropout before %d adapters, want one", op, len(b.Ranks)))
	}
	check(op, "A", b.A, dtype, r, f)
}

// ScaledGatedBackward is [GatedBackward] of rows with factors.
func ScaledGatedBackward(a Activation, gateUp, dact Rows, b, low, p *Node, pad int, behind *Behind) (dGateUp, dLow, db, da *Node) {
	const op = "GatedBackward"
	dtype := gateUp.X.DType()
	rows, f := checkGateUp(op, gateUp.X)
	gateUp.check(op, rows)
	dact.check(op, rows)
	checkPad(op, pad)
	_, r := checkMatrix(op, "b", b)
	check(op, "dact", dact.X, dtype, rows, f)
	check(op, "b", b, dtype, 2*f, r)
	check(op, "low", low, dtype, rows, 2*r)
	check(op, "p", p, dtype, rows, r)
	behind.check(op, dtype, rows, f, r)
	if k := gatedBackwardLaunch(a, dtype, rows, f, r, pad, behind).scaled(gateUp, dact).use(gateUp.X.Graph()); k != nil {
		return gatedBackwardCall(k, gateUp, dact, b, low, p, behind)
	}
	return gatedBackwardTwin(a, gateUp, dact, b, low, p, pad, behind)
}

func gatedBackwardTwin(a Activation, gateUp, dact Rows, b, low, p *Node, pad int, behind *Behind) (dGateUp, dLow, db, da *Node) {
	f, r := dact.X.Shape().Dimensions[1], p.Shape().Dimensions[1]
	narrow := func(x *Node) *Node { return ConvertDType(x, gateUp.X.DType()) }
	gate, up, d := columns(gateUp.wide(), 0, f), columns(gateUp.wide(), f, 2*f), dact.wide()
	s, inner := a.sigmoid(gate)
	open := Mul(gate, s)
	act := narrow(Mul(open, up))
	if behind != nil {
		act = behind.kept(0, act)
		d = Add(d, behind.kept(0, product(p, 1, behind.A, 0)))
	}
	dgate := narrow(Mul(Mul(d, up), slope(gate, s, inner)))
	dup := narrow(Mul(d, open))

	both := Concatenate([]*Node{dgate, dup}, 1)
	bGate, bUp := Slice(b, AxisRange(0, f)), Slice(b, AxisRange(f, 2*f))
	dLow = Concatenate([]*Node{product(dgate, 1, bGate, 0), product(dup, 1, bUp, 0)}, 1)
	db = Concatenate([]*Node{product(dgate, 0, columns(low, 0, r), 0), product(dup, 0, columns(low, r, 2*r), 0)}, 0)
	return padTo(both, 2*f+pad), dLow, InsertAxes(db, 0), product(act, 0, p, 0)
}

// GatedGradient is the first result of [GatedBackward] alone: [dgate | dup | 0], [T, 2F+pad]. It has no kernel.
func GatedGradient(a Activation, gateUp, dact *Node, pad int) *Node {
	const op = "GatedGradient"
	rows, f := checkGateUp(op, gateUp)
	checkPad(op, pad)
	check(op, "dact", dact, gateUp.DType(), rows, f)
	gate, up, d := wide(columns(gateUp, 0, f)), wide(columns(gateUp, f, 2*f)), wide(dact)
	s, inner := a.sigmoid(gate)
	both := Concatenate([]*Node{
		ConvertDType(Mul(Mul(d, up), slope(gate, s, inner)), gateUp.DType()),
		ConvertDType(Mul(d, Mul(gate, s)), gateUp.DType()),
	}, 1)
	return padTo(both, 2*f+pad)
}

// product contracts an axis of x with one of y, and returns float32.
func product(x *Node, xAxis int, y *Node, yAxis int) *Node {
	return Dot(wide(x), wide(y)).General([]int{xAxis}, nil, []int{yAxis}, nil)
}

// What gated_backward.cuh has.
const (
	gatedColumns = 128 // of F: a stripe
	gatedRows    = 32  // tokens of a tile
	gatedThreads = 256
	gatedStage   = 3*gatedRows*(gatedColumns+8) + gatedRows*(2*MaxLowRank+8) + gatedRows*(MaxLowRank+8)
	gatedShared  = 2*(2*gatedStage+gatedColumns*(2*MaxLowRank+8)) + 16*gatedThreads
	behindShared = 2 * MaxLowRank * (gatedColumns + 8) // more, with dropout
)

// residentBlocks is how many blocks run at once on the largest GPUs: two on each of 132 multiprocessors. Where fewer do, the last
// wave of them is short.
const residentBlocks = 264

func gatedBackwardLaunch(a Activation, dtype dtypes.DType, rows, f, r, pad int, behind *Behind) *launch {
	if dtype != dtypes.BFloat16 || f%gatedColumns != 0 || f == 0 || rows == 0 || rows > maxRows-gatedRows || r > MaxLowRank || r == 0 {
		return nil
	}
	tiles, stripes := ceilDiv(rows, gatedRows), f/gatedColumns
	blocks := min(residentBlocks, tiles*stripes) // without dropout three would fit beside each other; two are faster
	shares := mostShares(tiles, stripes, blocks)
	k := &launch{
		kernel: a.kernel() + "_backward", grid: [3]int{blocks}, threads: gatedThreads, shared: gatedShared,
		sizes: []int32{int32(f), int32(rows), int32(shares), int32(pad / chunk), 0, 0, 0},
		out: []shapes.Shape{
			shapes.Make(dtype, rows, 2*f+pad), shapes.Make(dtypes.Float32, rows, 2*MaxLowRank),
			shapes.Make(dtypes.Float32, shares, 2*f, MaxLowRank), shapes.Make(dtypes.Float32, shares, f, MaxLowRank),
		},
		aliases: []seam.Alias{{Result: 1, Operand: 8}}, // dLow is added to zeros
	}
	if behind != nil {
		t, ok := thresholds(behind.Rates[0])
		if !ok {
			return nil
		}
		k.kernel, k.shared, k.sizes[4] = k.kernel+"_dropped", k.shared+behindShared, t
	}
	return k
}

// mostShares is the most blocks that have tiles of one stripe, where all tiles, stripe after stripe, are dealt to blocks in equal
// runs, the first of which have one more.
func mostShares(tiles, stripes, blocks int) (most int) {
	least, more := tiles*stripes/blocks, tiles*stripes%blocks
	blockOf := func(tile int) int {
		if tile < more*(least+1) {
			return tile / (least + 1)
		}
		return (tile - more) / least
	}
	for s := range stripes {
		most = max(most, 1+blockOf((s+1)*tiles-1)-blockOf(s*tiles))
	}
	return most
}

// scaled sets which of the two have factors.
func (k *launch) scaled(gateUp, dact Rows) *launch {
	if k != nil && (gateUp.Scale != nil || dact.Scale != nil) {
		if !strings.HasSuffix(k.kernel, "_dropped") { // which does both
			k.kernel += "_scaled"
		}
		k.sizes[5], k.sizes[6] = flag(gateUp.Scale != nil), flag(dact.Scale != nil)
	}
	return k
}

// gatedBackwardCall widens the factors to the kernel's rank, and cuts the results back.
func gatedBackwardCall(k *launch, gateUp, dact Rows, b, low, p *Node, behind *Behind) (dGateUp, dLow, db, da *Node) {
	r := p.Shape().Dimensions[1]
	const full = MaxLowRank
	if r < full {
		low = Concatenate([]*Node{padTo(columns(low, 0, r), full), padTo(columns(low, r, 2*r), full)}, 1)
		b, p = padTo(b, full), padTo(p, full)
	}
	operands := []*Node{gateUp.X, dact.X, b, low, p, Const(b.Graph(), []uint32{0}), gateUp.factors(), dact.factors(), Zeros(b.Graph(), k.out[1])}
	if behind != nil { // else no keys are read
		operands[5] = behind.Keys
		operands = append(operands, behind.widen(behind.A, 0))
	}
	out := k.call(operands...)
	dLow, db, da = out[1], out[2], ReduceSum(out[3], 0)
	if r < full {
		dLow = Concatenate([]*Node{columns(dLow, 0, r), columns(dLow, full, full+r)}, 1)
		db, da = SliceAxis(db, 2, AxisRange(0, r)), columns(da, 0, r)
	}
	return out[0], dLow, db, da
}
