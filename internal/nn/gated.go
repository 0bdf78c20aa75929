package nn

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/kernels"
)

// SwiGLU is silu(gate) · up of gate and up [B, S, features], in float32 (arXiv:2002.05202). As outputs of one group of
// linears the two are kept as one, and their backward pass takes the adapters before and behind it along.
func (l *Layer) SwiGLU(gateUp []*Node) *Node {
	return l.gate(kernels.SiLU, gateUp, func(gate *Node) *Node { return Mul(gate, Sigmoid(gate)) })
}

// GeGLU is gelu(gate) · up of gate and up [B, S, features], in float32 (arXiv:2002.05202), gelu by its approximation with
// tanh (arXiv:1606.08415, transformers' gelu_pytorch_tanh). Otherwise it is as [Layer.SwiGLU].
func (l *Layer) GeGLU(gateUp []*Node) *Node {
	return l.gate(kernels.GELUTanh, gateUp, func(x *Node) *Node {
		inner := MulScalar(Add(x, MulScalar(Mul(x, Mul(x, x)), 0.044715)), math.Sqrt(2/math.Pi))
		return MulScalar(Mul(x, OnePlus(Tanh(inner))), 0.5)
	})
}

// gate is the fused form of the activation where gate and up are the product of a group, else the plain one.
func (l *Layer) gate(a kernels.Activation, gateUp []*Node, activate func(gate *Node) *Node) *Node {
	if both := l.whole(gateUp); both != nil {
		if product := l.products[both]; product != nil {
			return product(a)
		}
		if f := l.groups[both]; f != nil {
			return l.fusedGate(a, both, gateUp[0], f)
		}
	}
	return l.glu(gateUp, activate)
}

// glu is activate(gate) · up in float32.
func (l *Layer) glu(gateUp []*Node, activate func(gate *Node) *Node) *Node {
	product := func(gate, up *Node) []*Node {
		g := activate(ConvertDType(gate, dtypes.Float32))
		return []*Node{ConvertDType(Mul(g, ConvertDType(up, dtypes.Float32)), gate.DType())}
	}
	gate, up := gateUp[0], gateUp[1]
	both := l.whole(gateUp)
	if both == nil {
		ins := []*Node{l.tape.value(KeepGate, gate), l.tape.value(KeepGate, up)}
		return l.tape.plain(ins, func(in []*Node) []*Node { return product(in[0], in[1]) })[0]
	}
	n := gate.Shape().Dim(-1)
	return l.tape.plain([]*Node{l.tape.value(KeepGate, both)}, func(in []*Node) []*Node {
		return product(SliceAxis(in[0], -1, AxisRange(0, n)), SliceAxis(in[0], -1, AxisRange(n)))
	})[0]
}

// fusedGate is the gated activation of both [B, S, 2·features], the product of f, with the shape of like.
func (l *Layer) fusedGate(a kernels.Activation, both, like *Node, f *fused) *Node {
	behind := 0 // room for the next linear's adapter, which this group's adapters foretell
	if f.n > 0 {
		behind = room
	}
	rows, both := l.gateRows(both)
	act := l.head(kernels.ScaledGated(a, rows, behind), like, true)
	if rows.Scale == nil && behind > 0 && rows.X.Shape().Dim(0) >= kernels.MinLowRows {
		l.lows[act] = func(adapter *Node) (act, low *Node) { return kernels.GatedLow(a, rows.X, adapter, behind) }
	}
	if r, ok := f.pair(); ok {
		l.gated[act] = r
	}
	l.tape.record([]*Node{act}, func(d []*Node) {
		next, ok := l.late[d[0]]
		if !ok {
			l.tape.add(both, l.head(kernels.GatedGradient(a, rows.Product(), flat(d[0]), f.pad), both, true))
			return
		}
		dact, ok := l.raw[d[0]]
		if !ok {
			dact.X = flat(d[0])
		}
		dBoth, dLow, dB, dA := kernels.ScaledGatedBackward(a, rows, dact, f.compactB(both.DType()), f.low, next.p, f.pad, next.behind)
		next.addA(TransposeAllDims(dA, 1, 0))
		g := l.head(dBoth, both, true)
		l.early[g] = early{dLow, dB}
		l.tape.add(both, g)
	})
	return act
}

// pair tells whether both of two linears have an adapter of one rank that kernels.GatedBackward takes.
func (f *fused) pair() (r int, ok bool) {
	if len(f.linears) != 2 || len(f.adapters) != 2 || f.adapters[0].R != f.adapters[1].R {
		return 0, false
	}
	r = f.adapters[0].R
	return r, r <= kernels.MaxLowRank
}

// compactB are the Bs [out, R] times their scaling, one below the other.
func (f *fused) compactB(dtype dtypes.DType) *Node {
	var bs []*Node
	for _, a := range f.adapters {
		bs = append(bs, a.scaled(a.b))
	}
	return ConvertDType(Concatenate(bs, 0), dtype)
}
