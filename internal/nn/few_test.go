package nn_test

import (
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/reference"
)

// generated is the layer's output for the first tokens at once and the others one by one, over a cache that has room for
// more; stacked says that the adapters are stacked beforehand.
func (s *set) generated(form nn.Form, x *Node, in []*Node, first int, stacked bool) *Node {
	g, p := x.Graph(), s.p
	dim, n := p.hidden/p.heads, len(s.base.Slots)
	shape := nn.Shape{Hidden: p.hidden, Heads: p.heads, KVHeads: p.kvHeads, HeadDim: dim, NormEps: 1e-5, Compute: p.dtype, Form: form}
	layer := func(from, to int) *nn.Layer {
		places := AxisRange(from, to)
		l := nn.NewLayer(shape, nn.Batch{Cos: SliceAxis(in[0], 1, places), Sin: SliceAxis(in[1], 1, places)}, nil)
		return l.Bind(s.base, in[2:2+n]).Bind(s.adapter, in[2+n:])
	}
	cache := &nn.Cache{Start: Zeros(g, shapes.Make(dtypes.Int32, p.batch)), Capacity: p.seq + 3}
	var parts []*Node
	for from, to := 0, first; from < p.seq; from, to = to, to+1 {
		l := layer(from, to).WithCache(cache)
		if stacked {
			l.UseStack(layer(from, to).Stack())
		}
		cache.Position = Const(g, int32(from))
		parts = append(parts, p.block(l, SliceAxis(x, 1, AxisRange(from, to))))
	}
	return Concatenate(parts, 1)
}

func TestGeneratingTokenByTokenEqualsAllAtOnce(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, spec string) {
		d, err := backend.Open(spec)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		for _, p := range []problem{
			{name: "packed", batch: 2, seq: 7, hidden: 64, features: 128, heads: 4, kvHeads: 2, packed: true, nested: true, ranks: all(3)},
			{name: "no adapters", batch: 1, seq: 6, hidden: 64, features: 192, heads: 4, kvHeads: 1, packed: true, gelu: true},
			{name: "dense with biases", batch: 3, seq: 5, hidden: 48, features: 80, heads: 2, kvHeads: 2, bias: true, ranks: map[string]int{"q": 2, "v": 17, "up": 3, "down": 4}},
			{name: "DoRA, packed", batch: 2, seq: 6, hidden: 64, features: 128, heads: 4, kvHeads: 2, packed: true, nested: true, dora: true, ranks: all(3)},
			{name: "DoRA and shifts, dense with biases", batch: 1, seq: 5, hidden: 48, features: 80, heads: 2, kvHeads: 2, bias: true, dora: true, shift: true,
				ranks: map[string]int{"q": 2, "v": 17, "up": 3, "down": 4}},
			{name: "rows and shifts, packed", batch: 3, seq: 6, hidden: 64, features: 64, heads: 2, kvHeads: 1, packed: true, rows: 4, shift: true, ranks: all(5)},
			{name: "packed with biases", batch: 1, seq: 6, hidden: 64, features: 64, heads: 2, kvHeads: 2, packed: true, bias: true, ranks: all(16)},
		} {
			t.Run(p.name, func(t *testing.T) {
				p.dtype = dtypes.Float32
				s := p.make(t, d)
				exec, err := NewExec(d.Backend, func(in []*Node) []*Node {
					x, in := in[0], in[1:]
					all, _ := s.apply(nn.FormPlain, nil, x, in)
					return []*Node{
						all, s.generated(nn.FormPlain, x, in, 4, false), s.generated(nn.FormFused, x, in, 4, false), s.generated(nn.FormFused, x, in, 3, true),
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				args := []any{s.x, s.cos, s.sin}
				for _, x := range s.slots {
					args = append(args, x)
				}
				out, err := exec.Call(args...)
				if err != nil {
					t.Fatal(err)
				}
				var values [][]float32
				for _, o := range out {
					v, err := backend.DownloadFloats(o)
					if err != nil {
						t.Fatal(err)
					}
					values = append(values, v)
				}
				for i, form := range []string{"plain", "fused", "fused, stacked beforehand"} {
					reference.CheckClose(t, form, values[1+i], values[0], 3e-6)
				}
			})
		}
	})
}
