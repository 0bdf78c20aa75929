package kernels

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// MaxLowRank is the largest adapter rank that the kernels of [Low], [GatedLow] and [GatedBackward] take.
const MaxLowRank = 16

// MinLowRows is from how many rows on [Low] and [GatedLow] fill a GPU; with fewer, two passes are faster.
const MinLowRows = 1024

// Low is x [T, in] with room behind it, and what an adapter makes of it, for its A [n, in], of x's dtype: [x | low | 0],
// [T, in+pad], and low [T, n] = x·Aᵀ, summed in float32 and rounded once.
//
// The kernel takes bfloat16, an in that is a multiple of 64, n up to [MaxLowRank], and a pad of that or more.
func Low(x, adapter *Node, pad int) (both, low *Node) {
	const op = "Low"
	rows, in := checkMatrix(op, "x", x)
	n := checkLow(op, x, adapter, in, pad)
	if k := lowLaunch("low", x.DType(), rows, in, n, pad).use(x.Graph()); k != nil {
		return lowCall(k, x, adapter)
	}
	return lowTwin(x, adapter, pad)
}

// GatedLow is [Gated] together with the product that an adapter behind it makes of it, for its A [n, F], of gateUp's dtype:
// [act(gate)·up | low | 0], [T, F+pad], and low [T, n] = act(gate)·up·Aᵀ, summed in float32 and rounded once.
//
// The kernel takes bfloat16, F a multiple of 64, n up to [MaxLowRank], and a pad of that or more.
func GatedLow(a Activation, gateUp, adapter *Node, pad int) (act, low *Node) {
	const op = "GatedLow"
	rows, f := checkGateUp(op, gateUp)
	n := checkLow(op, gateUp, adapter, f, pad)
	if k := lowLaunch(a.kernel()+"_low", gateUp.DType(), rows, f, n, pad).use(gateUp.Graph()); k != nil {
		return lowCall(k, gateUp, adapter)
	}
	return gatedLowTwin(a, gateUp, adapter, pad)
}

// checkLow panics unless the adapter's A fits; it returns its rank.
func checkLow(op string, x, adapter *Node, in, pad int) (n int) {
	checkPad(op, pad)
	n, _ = checkMatrix(op, "A", adapter)
	check(op, "A", adapter, x.DType(), n, in)
	if n > pad {
		panic(fmt.Errorf("kernels: %s: A has rank %d, in room for %d", op, n, pad))
	}
	return n
}

func lowTwin(x, adapter *Node, pad int) (both, low *Node) {
	low = ConvertDType(product(x, 1, adapter, 1), x.DType())
	return padTo(Concatenate([]*Node{x, low}, 1), x.Shape().Dim(1)+pad), low
}

func gatedLowTwin(a Activation, gateUp, adapter *Node, pad int) (act, low *Node) {
	return lowTwin(gatedTwin(a, Rows{X: gateUp}, 0), adapter, pad)
}

// What low.cuh has.
const (
	lowTokens  = 16 // of a block
	lowColumns = 64 // that a warp takes at once
	lowThreads = 512
)

func lowLaunch(kernel string, dtype dtypes.DType, rows, in, n, pad int) *launch {
	if dtype != dtypes.BFloat16 || in%lowColumns != 0 || in == 0 || rows == 0 || n > MaxLowRank || n == 0 || pad < MaxLowRank {
		return nil
	}
	return &launch{
		kernel: kernel, grid: [3]int{ceilDiv(rows, lowTokens)}, threads: lowThreads,
		sizes: []int32{int32(in / chunk), int32(pad / chunk), int32(rows)},
		out:   []shapes.Shape{shapes.Make(dtype, rows, in+pad), shapes.Make(dtype, rows, MaxLowRank)},
	}
}

// lowCall widens A to the kernel's rank, and cuts the product back.
func lowCall(k *launch, x, adapter *Node) (both, low *Node) {
	d := adapter.Shape().Dimensions
	if d[0] < MaxLowRank {
		adapter = Concatenate([]*Node{adapter, Zeros(adapter.Graph(), shapes.Make(adapter.DType(), MaxLowRank-d[0], d[1]))}, 0)
	}
	out := k.call(x, adapter)
	return out[0], columns(out[1], 0, d[0])
}
