package kernels

import (
	"embed"
	"fmt"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/seam"
)

// ptx are the compiled kernels, one in each file; the entry is called loris_ and the file's name. Those of float8, fp8_*, are for
// compute capability 8.9, the others for 8.0.
//
//go:embed *.ptx
var ptx embed.FS

// Available tells whether a backend runs the kernels: an NVIDIA GPU of compute capability 8.0 or more, opened through the seam.
// Where the plugin does not tell which it is, the seam's self-test was a kernel for 8.0, so that a backend that passed it takes these
// too.
func Available(b compute.Backend) bool {
	p, ok := seam.Of(b)
	return ok && seam.Available(b) && p.IsCUDA() && !p.Before(8)
}

// launch is one call of a kernel, for operands of certain shapes.
type launch struct {
	kernel  string
	grid    [3]int
	threads int     // of a block
	shared  int     // bytes of dynamic shared memory
	sizes   []int32 // the kernel's last operand
	out     []shapes.Shape
	aliases []seam.Alias
}

// call adds the launch to the graph. A kernel's parameters are the operands, the sizes, the results.
func (l *launch) call(operands ...*Node) []*Node {
	operands = append(slices.Clone(operands), Const(operands[0].Graph(), l.sizes))
	return seam.Call(l.customCall().Body(shapesOf(operands), l.out), l.out, operands...)
}

// customCall is the launch as a call of XLA's.
func (l *launch) customCall() seam.CustomCall {
	source, err := ptx.ReadFile(l.kernel + ".ptx")
	if err != nil {
		panic(fmt.Errorf("kernels: %w", err))
	}
	kernel := seam.PTX{
		Name: "loris_" + l.kernel, Source: string(source), Grid: l.grid, Block: [3]int{l.threads}, SharedBytes: l.shared,
	}
	call := kernel.Call()
	call.Aliases = l.aliases
	return call
}

func shapesOf(nodes []*Node) []shapes.Shape {
	s := make([]shapes.Shape, len(nodes))
	for i, n := range nodes {
		s[i] = n.Shape()
	}
	return s
}

// use returns l if its kernel is to be used, and nil if the twin is.
func (l *launch) use(g *Graph) *launch {
	if l == nil || !Available(g.Backend()) {
		return nil
	}
	return l
}

// Rows are the rows of X [T, n], each times a factor of its own, Scale [T] float32, which is a power of two; nil: none have one.
type Rows struct{ X, Scale *Node }

func (r Rows) check(op string, rows int) {
	if r.Scale != nil {
		check(op, "the scale", r.Scale, dtypes.Float32, rows)
	}
}

// factors is Scale as a kernel takes it.
func (r Rows) factors() *Node {
	if r.Scale == nil {
		return Const(r.X.Graph(), []float32{1}) // never read
	}
	return r.Scale
}

// Product is X with its factors, in X's dtype.
func (r Rows) Product() *Node {
	if r.Scale == nil {
		return r.X
	}
	return ConvertDType(r.wide(), r.X.DType())
}

// wide is X with its factors, in float32.
func (r Rows) wide() *Node {
	if r.Scale == nil {
		return wide(r.X)
	}
	return Mul(wide(r.X), InsertAxes(r.Scale, 1))
}

// chunk is how many bf16 numbers a kernel reads at once; rows of matrices are multiples of it.
const chunk = 8

// maxRows is the most blocks that a grid's first axis has.
const maxRows = 1<<31 - 1

// checkPad panics unless pad is a number of columns that results can be followed by.
func checkPad(op string, pad int) {
	if pad < 0 || pad%chunk != 0 {
		panic(fmt.Errorf("kernels: %s: pad is %d; use 0 or a multiple of %d", op, pad, chunk))
	}
}

// check panics unless x has the dtype and the dimensions.
func check(op, name string, x *Node, dtype dtypes.DType, dims ...int) {
	if want := shapes.Make(dtype, dims...); !x.Shape().Equal(want) {
		panic(fmt.Errorf("kernels: %s: %s has shape %s, want %s", op, name, x.Shape(), want))
	}
}

// checkMatrix panics unless x is a matrix.
func checkMatrix(op, name string, x *Node) (rows, columns int) {
	if x.Rank() != 2 || !x.DType().IsFloat() {
		panic(fmt.Errorf("kernels: %s: %s has shape %s, want a matrix of floats", op, name, x.Shape()))
	}
	d := x.Shape().Dimensions
	return d[0], d[1]
}

// wide is x in float32, in which the twins compute.
func wide(x *Node) *Node { return ConvertDType(x, dtypes.Float32) }

// padTo is x [rows, n] followed by columns of zeros up to columns.
func padTo(x *Node, columns int) *Node {
	d := x.Shape().Dimensions
	if d[1] == columns {
		return x
	}
	return Concatenate([]*Node{x, Zeros(x.Graph(), shapes.Make(x.DType(), d[0], columns-d[1]))}, 1)
}

// columns are those of x [rows, n] from begin to end.
func columns(x *Node, begin, end int) *Node {
	return Slice(x, AxisRange(), AxisRange(begin, end))
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }
