package attention

import (
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/seam"
)

// Twice as many tokens are four times as many tiles. What forward and backward work in doubles, in whatever order a compiler
// schedules them.
func TestTiledMemoryIsLinearInTheLength(t *testing.T) {
	onBackends(t, func(t *testing.T, d *backend.Device) {
		plugin, ok := seam.Of(d.Backend)
		if !ok {
			t.Skip("only XLA tells what programs work in")
		}
		for _, x := range []struct {
			name  string
			dtype dtypes.DType
			o     Options
		}{
			{"causal float32", dtypes.Float32, Options{Causal: true}},
			{"soft cap bfloat16", dtypes.BFloat16, Options{SoftCap: 30}},
			{"packed dropout", dtypes.Float32, Options{Causal: true, DropoutRate: 0.1}},
		} {
			t.Run(x.name, func(t *testing.T) {
				x.o.Route, x.o.BlockQ, x.o.BlockKV = RouteTiled, 128, 128
				memory := func(length int) int64 {
					p := &problem{batch: 1, queries: length, keys: length, heads: 8, kvHeads: 2, dim: 64, Options: x.o}
					if x.o.DropoutRate > 0 {
						p.ids = documents(1, length)
					}
					return p.workingMemory(t, plugin, d, x.dtype)
				}
				half, whole := memory(512), memory(1024)
				if t.Logf("%d and %d bytes", half, whole); float64(whole) > 2.2*float64(half) {
					t.Errorf("512 tokens take %d bytes, 1024 %d", half, whole)
				}
			})
		}
	})
}

// workingMemory is what forward and backward in one program take beside their arguments and results, in bytes.
func (p *problem) workingMemory(t *testing.T, plugin *seam.Client, d *backend.Device, dtype dtypes.DType) int64 {
	t.Helper()
	exec, number := p.forwardAndBackward(t, d)
	var in []shapes.Shape
	for i := range 4 {
		in = append(in, shapes.Make(dtype, p.dimensions(i)...))
	}
	if p.ids != nil {
		in = append(in, shapes.Make(dtypes.Int32, p.batch, p.queries))
	}
	if p.DropoutRate > 0 {
		in = append(in, shapes.Make(dtypes.Uint32, p.batch))
	}
	if _, err := exec.Compile(in...); err != nil {
		t.Fatal(err)
	}
	f, ok := plugin.Footprint(number)
	if !ok {
		t.Fatal("the compiler does not tell")
	}
	return f.Temporary
}

// forwardAndBackward is one program for both, and its number for [seam.Plugin.Footprint].
func (p *problem) forwardAndBackward(t testing.TB, d *backend.Device) (*Exec, int64) {
	t.Helper()
	number := seam.NextNumber()
	exec, err := NewExec(d.Backend, func(in []*Node) []*Node {
		if seam.Available(d.Backend) {
			seam.Configure(in[0].Graph(), &seam.Program{Number: number})
		}
		return p.gradients(Attend(in[0], in[1], in[2], p.options(in)), in)
	})
	if err != nil {
		t.Fatal(err)
	}
	return exec, number
}
