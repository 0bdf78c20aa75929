package kernels

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// Rotated is x [..., D] in float32, rotated by the angles whose cosines and sines [..., D/2] are given (arXiv:2104.09864; the
// halves of D are the real and imaginary parts, as in transformers' rotate_half).
func Rotated(x, cos, sin *Node) *Node {
	half := x.Shape().Dim(-1) / 2
	re, im := SliceAxis(wide(x), -1, AxisRange(0, half)), SliceAxis(wide(x), -1, AxisRange(half))
	return Concatenate([]*Node{Sub(Mul(re, cos), Mul(im, sin)), Add(Mul(im, cos), Mul(re, sin))}, -1)
}

// RoPE splits qkv [B, S, (heads + 2·kv_heads)·D] into queries [B, S, heads, D], keys and values [B, S, kv_heads, D], and
// rotates queries and keys as [Rotated] does. cos and sin are float32 [1 or B, S, D/2].
//
// The kernel takes bfloat16, and D a multiple of 16.
func RoPE(qkv, cos, sin *Node, heads, kvHeads int) (q, k, v *Node) {
	const op = "RoPE"
	if qkv.Rank() != 3 || cos.Rank() != 3 {
		panic(fmt.Errorf("kernels: %s: qkv and cos have shapes %s and %s, want [B, S, features] and [1 or B, S, D/2]", op, qkv.Shape(), cos.Shape()))
	}
	d := qkv.Shape().Dimensions
	batch, seq, dim := d[0], d[1], 2*cos.Shape().Dim(-1)
	check(op, "qkv", qkv, qkv.DType(), batch, seq, (heads+2*kvHeads)*dim)
	tables := checkAngles(op, cos, sin, batch, seq, dim)
	if launch := ropeLaunch(qkv.DType(), batch, seq, heads, kvHeads, dim, tables).use(qkv.Graph()); launch != nil {
		out := launch.call(qkv, cos, sin)
		return out[0], out[1], out[2]
	}
	return ropeTwin(qkv, cos, sin, heads, kvHeads)
}

// checkAngles panics unless cos and sin are float32 [1 or batch, seq, dim/2], and returns how many tables they are.
func checkAngles(op string, cos, sin *Node, batch, seq, dim int) (tables int) {
	tables = batch
	if cos.Shape().Dim(0) == 1 {
		tables = 1
	}
	check(op, "cos", cos, dtypes.Float32, tables, seq, dim/2)
	check(op, "sin", sin, dtypes.Float32, tables, seq, dim/2)
	return tables
}

func ropeTwin(qkv, cos, sin *Node, heads, kvHeads int) (q, k, v *Node) {
	d, dim, at := qkv.Shape().Dimensions, 2*cos.Shape().Dim(-1), 0
	part := func(heads int) *Node {
		x := SliceAxis(qkv, -1, AxisRange(at, at+heads*dim))
		at += heads * dim
		return Reshape(x, d[0], d[1], heads, dim)
	}
	cos, sin = InsertAxes(cos, 2), InsertAxes(sin, 2)
	q, k, v = part(heads), part(kvHeads), part(kvHeads)
	return ConvertDType(Rotated(q, cos, sin), q.DType()), ConvertDType(Rotated(k, cos, sin), k.DType()), v
}

func ropeLaunch(dtype dtypes.DType, batch, seq, heads, kvHeads, dim, tables int) *launch {
	rows := batch * seq
	if dtype != dtypes.BFloat16 || dim%(2*chunk) != 0 || dim == 0 || rows == 0 || rows > maxRows {
		return nil
	}
	kv := shapes.Make(dtype, batch, seq, kvHeads, dim)
	return &launch{
		kernel: "rope", grid: [3]int{rows}, threads: 128,
		sizes: []int32{int32(heads * dim / chunk), int32(kvHeads * dim / chunk), int32(tables * seq), int32(dim / (2 * chunk))},
		out:   []shapes.Shape{shapes.Make(dtype, batch, seq, heads, dim), kv, kv},
	}
}

// RoPEBackward takes the gradients of queries, keys and values as attention returns them to that of the product they came
// from, the backward of [RoPE]: dq [B, S, heads, D] and dk [B, S, kv_heads, D] are rotated back, dv is as it is:
//
//	[dq | dk | dv | 0], [B·S, (heads + 2·kv_heads)·D + pad], of dq's dtype.
//
// cos and sin are those of the forward, float32 [1 or B, S, D/2]; the rotation is computed in float32.
//
// The kernel takes bfloat16, and D a multiple of 16.
func RoPEBackward(dq, dk, dv, cos, sin *Node, pad int) *Node {
	const op = "RoPEBackward"
	checkPad(op, pad)
	if dq.Rank() != 4 || dk.Rank() != 4 || cos.Rank() != 3 || dq.Shape().Dimensions[3]%2 != 0 {
		panic(fmt.Errorf("kernels: %s: dq, dk and cos have shapes %s, %s and %s, want [B, S, heads, D], [B, S, kv_heads, D] and [1 or B, S, D/2]",
			op, dq.Shape(), dk.Shape(), cos.Shape()))
	}
	d := dq.Shape().Dimensions
	batch, seq, dim, kvHeads := d[0], d[1], d[3], dk.Shape().Dimensions[2]
	check(op, "dk", dk, dq.DType(), batch, seq, kvHeads, dim)
	check(op, "dv", dv, dq.DType(), batch, seq, kvHeads, dim)
	tables := checkAngles(op, cos, sin, batch, seq, dim)
	if k := ropeBackwardLaunch(dq.DType(), batch, seq, d[2], kvHeads, dim, tables, pad).use(dq.Graph()); k != nil {
		return k.call(dq, dk, dv, cos, sin)[0]
	}
	return ropeBackwardTwin(dq, dk, dv, cos, sin, pad)
}

func ropeBackwardTwin(dq, dk, dv, cos, sin *Node, pad int) *Node {
	d := dq.Shape().Dimensions
	flat := func(x *Node) *Node { return Reshape(x, d[0]*d[1], x.Shape().Dimensions[2]*d[3]) }
	cos, sin = InsertAxes(cos, 2), Neg(InsertAxes(sin, 2))
	back := func(x *Node) *Node { return flat(ConvertDType(Rotated(x, cos, sin), x.DType())) }
	all := Concatenate([]*Node{back(dq), back(dk), flat(dv)}, 1)
	return padTo(all, all.Shape().Dimensions[1]+pad)
}

func ropeBackwardLaunch(dtype dtypes.DType, batch, seq, heads, kvHeads, dim, tables, pad int) *launch {
	rows := batch * seq
	if dtype != dtypes.BFloat16 || dim%(2*chunk) != 0 || dim == 0 || rows == 0 || rows > maxRows {
		return nil
	}
	q, k := heads*dim, kvHeads*dim
	return &launch{
		kernel: "rope_backward", grid: [3]int{rows}, threads: 128,
		sizes: []int32{int32(q / chunk), int32(k / chunk), int32(tables * seq), int32(pad / chunk), int32(dim / (2 * chunk))},
		out:   []shapes.Shape{shapes.Make(dtype, rows, q+2*k+pad)},
	}
}
