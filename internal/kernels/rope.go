package kernels

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// RoPEBackward takes the gradients of queries, keys and values as attention returns them to that of the product they came
// from: dq [B, S, heads, D] and dk [B, S, kv_heads, D] are rotated back (arXiv:2104.09864; the halves of a head are the real
// and imaginary parts, as in transformers' rotate_half), dv is as it is:
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
	batch, seq, dim, kvHeads, tables := d[0], d[1], d[3], dk.Shape().Dimensions[2], cos.Shape().Dimensions[0]
	if tables != 1 {
		tables = batch
	}
	check(op, "dk", dk, dq.DType(), batch, seq, kvHeads, dim)
	check(op, "dv", dv, dq.DType(), batch, seq, kvHeads, dim)
	check(op, "cos", cos, dtypes.Float32, tables, seq, dim/2)
	check(op, "sin", sin, dtypes.Float32, tables, seq, dim/2)
	if k := ropeBackwardLaunch(dq.DType(), batch, seq, d[2], kvHeads, dim, tables, pad).use(dq.Graph()); k != nil {
		return k.call(dq, dk, dv, cos, sin)[0]
	}
	return ropeBackwardTwin(dq, dk, dv, cos, sin, pad)
}

func ropeBackwardTwin(dq, dk, dv, cos, sin *Node, pad int) *Node {
	d := dq.Shape().Dimensions
	flat := func(x *Node) *Node { return Reshape(x, d[0]*d[1], x.Shape().Dimensions[2]*d[3]) }
	c, s := InsertAxes(cos, 2), InsertAxes(sin, 2)
	back := func(x *Node) *Node {
		re := wide(Slice(x, AxisRange(), AxisRange(), AxisRange(), AxisRange(0, d[3]/2)))
		im := wide(Slice(x, AxisRange(), AxisRange(), AxisRange(), AxisRange(d[3]/2)))
		rotated := Concatenate([]*Node{Add(Mul(re, c), Mul(im, s)), Sub(Mul(im, c), Mul(re, s))}, -1)
		return flat(ConvertDType(rotated, x.DType()))
	}
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
