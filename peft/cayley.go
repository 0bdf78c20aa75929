package peft

import (
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"gonum.org/v1/gonum/mat"

	"github.com/loris-ml/loris/internal/matmul"
	"github.com/loris-ml/loris/internal/safetensors/floats"
	"github.com/loris-ml/loris/models"
)

// Rotations (I - Q)(I + Q)⁻¹ of skew-symmetric Q, Cayley's, as block-diagonal matrices of the inputs of linears: in graphs, and in
// float64 on the host.

// batched is a·b of matrices [n, _, _] in float32.
func batched(a, b *Node) *Node { return matmul.General(a, []int{2}, []int{0}, b, []int{1}, []int{0}) }

// identities is I [1, size, size] in float32.
func identities(g *Graph, size int) *Node {
	row := Iota(g, shapes.Make(dtypes.Int32, 1, size, size), 1)
	column := Iota(g, shapes.Make(dtypes.Int32, 1, size, size), 2)
	return ConvertDType(Equal(row, column), dtypes.Float32)
}

// newtonSteps double the digits of an inverse each; they are enough where ‖I + QQᵀ‖ is up to some thousands.
const newtonSteps = 16

// cayley is (I - Q)(I + Q)⁻¹ of skew-symmetric q [n, b, b]. The inverse of M = I + Q comes by Newton's iteration (Schulz 1933),
// X ← X (2I - M X) from Mᵀ/‖MMᵀ‖, from which it converges as M is normal. The last step alone is differentiated: at X = M⁻¹ its
// gradient is that of the inverse.
func cayley(q *Node) *Node {
	g, size := q.Graph(), q.Shape().Dim(2)
	eye := identities(g, size)
	m := Add(eye, q)
	fixed := StopGradient(m)
	transposed := TransposeAllAxes(fixed, 0, 2, 1)
	norm := ReduceAndKeep(ReduceAndKeep(Abs(batched(fixed, transposed)), ReduceSum, 2), ReduceMax, 1)
	x := Div(transposed, norm)
	step := func(m, x *Node) *Node { return batched(x, Sub(MulScalar(eye, 2), batched(m, x))) }
	for range newtonSteps {
		x = step(fixed, x)
	}
	return batched(Sub(eye, q), step(m, StopGradient(x)))
}

// rotateBlocks is x [B, S, n·b] times the block-diagonal matrix of r [n, b, b], or [1, b, b] for all blocks, in float32.
func rotateBlocks(x, r *Node) *Node {
	d, blocks, size := x.Shape().Dimensions, r.Shape().Dim(0), r.Shape().Dim(2)
	if blocks == 1 {
		one := Reshape(r, size, size)
		return Reshape(matmul.Contract(Reshape(x, d[0], d[1], d[2]/size, size), 3, one, 0), d...)
	}
	y := matmul.General(Reshape(x, d[0]*d[1], blocks, size), []int{2}, []int{1}, r, []int{1}, []int{0}) // [n, B·S, b]
	return Reshape(TransposeAllAxes(y, 1, 0, 2), d...)
}

// hostCayley is the rotation of a skew-symmetric matrix.
func hostCayley(q *mat.Dense) *mat.Dense {
	size, _ := q.Dims()
	minus, plus := mat.NewDense(size, size, nil), mat.NewDense(size, size, nil)
	for i := range size {
		minus.Set(i, i, 1)
		plus.Set(i, i, 1)
	}
	minus.Sub(minus, q)
	plus.Add(plus, q)
	var r mat.Dense
	if err := r.Solve(plus, minus); err != nil { // I + Q is regular; the factors commute
		return nanMatrix(size)
	}
	return &r
}

// nanMatrix stands for what is not finite.
func nanMatrix(size int) *mat.Dense {
	m := mat.NewDense(size, size, nil)
	zero := 0.0
	m.Apply(func(_, _ int, _ float64) float64 { return zero / zero }, m)
	return m
}

// rotatesColumns multiplies each row of a weight [out, in], as a column vector, by a block-diagonal matrix: blocks [n, b, b], or one
// for all of them.
func rotatesColumns(w []float32, in int, blocks []*mat.Dense) {
	size, _ := blocks[0].Dims()
	floats.InParallel(len(w)/in, 16, func(lo, hi int) {
		part, turned := mat.NewVecDense(size, nil), mat.NewVecDense(size, nil)
		for o := lo; o < hi; o++ {
			row := w[o*in : (o+1)*in]
			for k := range in / size {
				own := row[k*size : (k+1)*size]
				for i, v := range own {
					part.SetVec(i, float64(v))
				}
				turned.MulVec(blocks[k%len(blocks)], part)
				for i := range own {
					own[i] = float32(turned.AtVec(i))
				}
			}
		}
	})
}

// rotationChanges are the merge and unmerge of a block-diagonal matrix on the inputs.
func rotationChanges(in int, blocks func(values [][]float32) []*mat.Dense) (merge, unmerge func([][]float32) models.LinearChange) {
	merge = func(v [][]float32) models.LinearChange {
		return models.LinearChange{Weight: func(w []float32) { rotatesColumns(w, in, blocks(v)) }}
	}
	unmerge = func(v [][]float32) models.LinearChange {
		return models.LinearChange{Weight: func(w []float32) {
			back := blocks(v)
			for i, b := range back {
				size, _ := b.Dims()
				inverse := mat.NewDense(size, size, nil)
				if err := inverse.Inverse(b); err != nil {
					inverse = nanMatrix(size)
				}
				back[i] = inverse
			}
			rotatesColumns(w, in, back)
		}}
	}
	return merge, unmerge
}
