package seam

import (
	"errors"
	"fmt"
	"math"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/customvjp"
)

// SelfTest checks on a backend what the package relies on: an operation with a body (on CUDA a PTX kernel too), its
// gradient, executions that nobody waits for, and the late error of one. The error says which of them failed; then
// operations of the seam must not be used on that backend. It waits for all that the backend runs, and leaves its depth as it was.
func SelfTest(b compute.Backend) (err error) {
	c, ok := Of(b)
	if !ok {
		return fmt.Errorf("seam self-test: backend %q was not opened through the seam", b.Name())
	}
	depth := c.Depth()
	defer func() {
		err = errors.Join(err, c.SetDepth(depth))
	}()
	if err := c.SetDepth(0); err != nil {
		return fmt.Errorf("seam self-test: before it began: %w", err)
	}
	for _, check := range []struct {
		name string
		run  func(*Client, compute.Backend) error
	}{
		{"an operation with a body", testOp},
		{"the gradient of an operation", testGradient},
		{"asynchronous executions", testAsync},
		{"the late error of an asynchronous execution", testLateError},
	} {
		if err := check.run(c, b); err != nil {
			return fmt.Errorf("seam self-test: %s: %w", check.name, err)
		}
	}
	return nil
}

// axpbPTX computes y = a + 2 b of %[2]d float32 values, one thread each, on GPUs from compute capability %[1]s on.
const axpbPTX = `.version 7.0
.target sm_%[1]s
.address_size 64

.visible .entry loris_axpb(.param .u64 a, .param .u64 b, .param .u64 y)
{
	.reg .pred %%outside;
	.reg .b32 %%index, %%block, %%width, %%lane;
	.reg .b64 %%pa, %%pb, %%py, %%offset;
	.reg .f32 %%va, %%vb;

	mov.u32 %%block, %%ctaid.x;
	mov.u32 %%width, %%ntid.x;
	mov.u32 %%lane, %%tid.x;
	mad.lo.s32 %%index, %%block, %%width, %%lane;
	setp.ge.s32 %%outside, %%index, %[2]d;
	@%%outside bra DONE;
	mul.wide.s32 %%offset, %%index, 4;
	ld.param.u64 %%pa, [a];
	ld.param.u64 %%pb, [b];
	ld.param.u64 %%py, [y];
	add.s64 %%pa, %%pa, %%offset;
	add.s64 %%pb, %%pb, %%offset;
	add.s64 %%py, %%py, %%offset;
	ld.global.f32 %%va, [%%pa];
	ld.global.f32 %%vb, [%%pb];
	fma.rn.f32 %%va, %%vb, 0f40000000, %%va;
	st.global.f32 [%%py], %%va;
DONE:
	ret;
}
`

// axpb is a + 2 b of float32 values, by a kernel for that compute capability ("80") or, "", by plain StableHLO, with the gradient that this has.
func axpb(ptx string, a, b *graph.Node) *graph.Node {
	s := []shapes.Shape{a.Shape()}
	var body Body
	if n := a.Shape().Size(); ptx != "" {
		kernel := PTX{Name: "loris_axpb", Source: fmt.Sprintf(axpbPTX, ptx, n), Grid: [3]int{(n + 127) / 128}, Block: [3]int{128}}
		body = kernel.Call().Body([]shapes.Shape{a.Shape(), b.Shape()}, s)
	} else {
		t := TensorType(s[0])
		body = Body(fmt.Sprintf("    %%twice = \"stablehlo.add\"(%%a1, %%a1) : (%s, %s) -> %s\n"+
			"    %%sum = \"stablehlo.add\"(%%a0, %%twice) : (%s, %s) -> %s\n", t, t, t, t, t, t) + Return([]string{"%sum"}, s))
	}
	y := Call(body, s, graph.StopGradient(a), graph.StopGradient(b))
	return customvjp.Apply(y, []*graph.Node{a, b}, func(ins, outs, dOuts []*graph.Node) []*graph.Node {
		return []*graph.Node{dOuts[0], graph.MulScalar(dOuts[0], 2)}
	})[0]
}

var selfA, selfB = []float32{0.5, -1.25, 3, 0, 7.5}, []float32{2, 0.75, -1, 4, 0.125}

// target is the compute capability that kernels are tried for: 8.0, as those of other packages, or the GPU's own where that is
// less; "" on devices without kernels.
func (c *Client) target() string {
	switch {
	case !c.IsCUDA():
		return ""
	case c.Before(8):
		major, minor, _ := c.ComputeCapability(0)
		return fmt.Sprintf("%d%d", major, minor)
	}
	return "80"
}

// forms are the ways in which axpb can run on a plugin.
func (c *Client) forms() []string {
	if target := c.target(); target != "" {
		return []string{"", target}
	}
	return []string{""}
}

// onSelf computes f of selfA and selfB and has the results checked. Nothing is left to the garbage collector, which must not come
// to a buffer while its backend is closed.
func onSelf(b compute.Backend, f func(x, y *graph.Node) []*graph.Node, check func(out []*tensors.Tensor) error) error {
	x, y := tensors.FromValue(selfA), tensors.FromValue(selfB)
	out, err := graph.CallOnceN(b, f, x, y)
	if err == nil {
		err = check(out)
	}
	return errors.Join(err, free(append(out, x, y)...))
}

func free(all ...*tensors.Tensor) (err error) {
	for _, t := range all {
		err = errors.Join(err, t.FinalizeAll())
	}
	return err
}

func testOp(c *Client, b compute.Backend) error {
	want := make([]float32, len(selfA))
	for i := range want {
		want[i] = selfA[i] + 2*selfB[i]
	}
	for _, ptx := range c.forms() {
		err := onSelf(b, func(x, y *graph.Node) []*graph.Node { return []*graph.Node{axpb(ptx, x, y)} },
			func(out []*tensors.Tensor) error { return expect(out[0], want) })
		if err != nil {
			return fmt.Errorf("PTX %q: %w", ptx, err)
		}
	}
	return nil
}

// testGradient takes the gradient of the sum of z² with z = sin(a) + 2 b.
func testGradient(c *Client, b compute.Backend) error {
	dA, dB := make([]float32, len(selfA)), make([]float32, len(selfA))
	for i := range selfA {
		z := math.Sin(float64(selfA[i])) + 2*float64(selfB[i])
		dA[i], dB[i] = float32(2*z*math.Cos(float64(selfA[i]))), float32(4*z)
	}
	for _, ptx := range c.forms() {
		err := onSelf(b, func(x, y *graph.Node) []*graph.Node {
			z := axpb(ptx, graph.Sin(x), y)
			return graph.Gradient(graph.ReduceAllSum(graph.Mul(z, z)), x, y)
		}, func(out []*tensors.Tensor) error { return errors.Join(expect(out[0], dA), expect(out[1], dB)) })
		if err != nil {
			return fmt.Errorf("PTX %q: %w", ptx, err)
		}
	}
	return nil
}

// testAsync runs a chain of executions, each on the result of the one before.
func testAsync(c *Client, b compute.Backend) (err error) {
	if err := c.SetDepth(3); err != nil {
		return err
	}
	triple, err := graph.NewExec(b, func(x *graph.Node) *graph.Node { return axpb("", x, x) })
	if err != nil {
		return err
	}
	defer triple.Finalize()
	want := []float32{1, -2}
	x := tensors.FromValue(want)
	defer func() { err = errors.Join(err, x.FinalizeAll()) }()
	for range 12 {
		y, err := triple.Call(x)
		if err != nil {
			return err
		}
		if err := x.FinalizeAll(); err != nil { // while it may still be read
			return err
		}
		x = y[0]
		want = []float32{want[0] * 3, want[1] * 3} // exact: 3^12 has 20 bits
	}
	if err := expect(x, want); err != nil {
		return err
	}
	if err := c.Sync(); err != nil {
		return err
	}
	if n := c.Pending(); n != 0 {
		return fmt.Errorf("%d executions are pending after all have been waited for", n)
	}
	return nil
}

// testLateError runs a program that fails while it runs, without waiting for it.
func testLateError(c *Client, b compute.Backend) error {
	failing, err := graph.NewExec(b, func(x *graph.Node) *graph.Node {
		if target := c.target(); target != "" { // more threads in a block than there can be
			s := []shapes.Shape{x.Shape()}
			kernel := PTX{Name: "loris_axpb", Source: fmt.Sprintf(axpbPTX, target, x.Shape().Size()), Block: [3]int{1 << 20}}
			return Call(kernel.Call().Body([]shapes.Shape{s[0], s[0]}, s), s, x, x)[0]
		}
		// More bytes than a process can address; allocated when the program runs.
		return graph.Add(graph.Iota(x.Graph(), shapes.Make(dtypes.Float32, 1<<56), 0), graph.ReduceAllSum(x))
	})
	if err != nil {
		return err
	}
	defer failing.Finalize()
	if err := c.SetDepth(3); err != nil {
		return err
	}
	x := tensors.FromValue(selfA)
	out, err := failing.Call(x)
	err = errors.Join(err, free(append(out, x)...))
	if late := c.Sync(); err == nil && late == nil {
		return errors.New("a program that must fail did not")
	}
	if err := c.Sync(); err != nil {
		return fmt.Errorf("the error comes again: %w", err)
	}
	return testOp(c, b)
}

// expect compares values with what they should be, to five digits.
func expect(got *tensors.Tensor, want []float32) error {
	values, err := tensors.CopyFlatData[float32](got)
	if err != nil {
		return err
	}
	for i := range want {
		if i >= len(values) || !(math.Abs(float64(values[i]-want[i])) <= 1e-5*(1+math.Abs(float64(want[i])))) {
			return fmt.Errorf("got %v, want %v", values, want)
		}
	}
	return nil
}
