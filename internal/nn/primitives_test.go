package nn_test

import (
	"math"
	"testing"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/reference"
)

// Sizes of the primitives' tests: rows, length, heads, features of a head, of which rotary are rotated.
const rows, length, heads, headDim, rotary = 2, 5, 3, 8, 6

// compute runs a program over a layer without linears, whose norm "n" has the gain, on x [rows, length, features].
func compute(t *testing.T, spec string, shape nn.Shape, rope nn.Rope, gain, x []float32, program func(l *nn.Layer, x *Node) *Node) []float32 {
	t.Helper()
	d, err := backend.Open(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	shape.HeadDim, shape.Compute = headDim, dtypes.Float32
	layout := nn.NewLayout()
	layout.Norm(nn.Norm{Name: "n", Size: len(gain)}, dtypes.Float32, false)
	cos, sin := rope.Table([]int32{0, 1, 2, 3, 40}, 41)
	var in []any
	for _, v := range []struct {
		values []float32
		dims   []int
	}{{x, []int{rows, length, len(x) / rows / length}}, {gain, []int{len(gain)}}, {cos, []int{1, length, rope.Width()}}, {sin, []int{1, length, rope.Width()}}} {
		u, err := backend.UploadValues(d, v.values, v.dims...)
		if err != nil {
			t.Fatal(err)
		}
		in = append(in, u)
	}
	exec, err := NewExec(d.Backend, func(in []*Node) []*Node {
		l := nn.NewLayer(shape, nn.Batch{Cos: in[2], Sin: in[3]}, nil).Bind(layout.Build(), in[1:2])
		return []*Node{program(l, in[0])}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer exec.Finalize()
	out, err := exec.Call(in...)
	if err != nil {
		t.Fatal(err)
	}
	values, err := tensors.CopyFlatData[float32](out[0])
	if err != nil {
		t.Fatal(err)
	}
	return values
}

func TestPrimitivesEqualFloat64(t *testing.T) {
	inverse := [][]float32{nn.InverseFrequencies(100, rotary), nn.InverseFrequencies(7, rotary)}
	rope := nn.Rope{Tables: []nn.Frequencies{nn.Constant(inverse[0], 1), nn.Constant(inverse[1], 1.25)}}
	x := reference.Normal(3, rows*length*heads*headDim, 2)
	gain := reference.Normal(4, headDim, 0.5)
	for _, c := range []struct {
		name    string
		shape   nn.Shape
		program func(l *nn.Layer, x *Node) *Node
		want    func(x []float64) []float64 // of one token of all heads
	}{
		{"norm of heads with unit offset", nn.Shape{NormEps: 1e-3, UnitOffset: true},
			func(l *nn.Layer, x *Node) *Node { return l.RMSNorm(l.Heads(x), "n") },
			func(x []float64) (y []float64) {
				for at := 0; at < len(x); at += headDim {
					mean := 0.0
					for _, v := range x[at : at+headDim] {
						mean += v * v / headDim
					}
					for i, v := range x[at : at+headDim] {
						y = append(y, v/math.Sqrt(mean+1e-3)*(1+float64(gain[i])))
					}
				}
				return y
			}},
		{"GeGLU", nn.Shape{}, // of two parts of one linear and an offcut
			func(l *nn.Layer, x *Node) *Node { return l.GeGLU(l.Cut(x, 10, 10, 4)[:2]) },
			func(x []float64) (y []float64) {
				for i, g := range x[:10] {
					y = append(y, g/2*(1+math.Tanh(math.Sqrt(2/math.Pi)*(g+0.044715*g*g*g)))*x[10+i])
				}
				return y
			}},
		{"scale", nn.Shape{}, func(l *nn.Layer, x *Node) *Node { return l.Scale(x, -1.5) }, func(x []float64) (y []float64) {
			for _, v := range x {
				y = append(y, -1.5*v)
			}
			return y
		}},
	} {
		reference.OnBackends(t, func(t *testing.T, spec string) {
			t.Run(c.name, func(t *testing.T) {
				var want []float32
				for at := 0; at < len(x); at += heads * headDim {
					for _, v := range c.want(wide(x[at : at+heads*headDim])) {
						want = append(want, float32(v))
					}
				}
				reference.CheckClose(t, c.name, compute(t, spec, c.shape, rope, gain, x, c.program), want, 1e-6)
			})
		})
	}
	for table, scale := range []float64{1, 1.25} {
		reference.OnBackends(t, func(t *testing.T, spec string) {
			got := compute(t, spec, nn.Shape{Rotary: rotary}, rope, gain, x, func(l *nn.Layer, x *Node) *Node {
				l.UseRope(table)
				return l.RoPE(l.Heads(x))
			})
			var want []float32
			for i, p := range []float64{0, 1, 2, 3, 40, 0, 1, 2, 3, 40} {
				for h := range heads {
					head := wide(x[(i*heads+h)*headDim:][:headDim])
					for j := range rotary / 2 {
						re, im := head[j], head[j+rotary/2]
						s, c := math.Sincos(p * float64(inverse[table][j]))
						head[j], head[j+rotary/2] = scale*(re*c-im*s), scale*(im*c+re*s)
					}
					for _, v := range head {
						want = append(want, float32(v))
					}
				}
			}
			reference.CheckClose(t, "RoPE of a part of each head", got, want, 1e-6)
		})
	}
}

func wide(x []float32) (y []float64) {
	for _, v := range x {
		y = append(y, float64(v))
	}
	return y
}
