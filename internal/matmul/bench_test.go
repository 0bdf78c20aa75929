package matmul_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/draw"
	"github.com/loris-ml/loris/internal/matmul"
)

// BenchmarkContract times the products of a small model's step, in float32, on the Go backend and those of
// LORIS_TEST_BACKENDS: what share of a step's time they explain.
func BenchmarkContract(b *testing.B) {
	const tokens = 1024
	for _, spec := range append([]string{""}, strings.Fields(os.Getenv("LORIS_TEST_BACKENDS"))...) {
		for _, c := range []struct {
			in, out   int
			transpose bool // of the weight, as for the gradient of x
		}{
			{576, 3072, false}, {3072, 576, true}, {1536, 576, false}, {576, 1536, true}, {576, 49152, false}, {49152, 576, true},
		} {
			b.Run(fmt.Sprintf("%s/%dx%dx%d", spec, tokens, c.in, c.out), func(b *testing.B) {
				d, err := backend.Open(spec)
				if err != nil {
					b.Fatal(err)
				}
				defer d.Close()
				random := func(seed uint32, dims ...int) any {
					t, err := CallOnce(d.Backend, func(s *Node) *Node {
						shape := shapes.Make(dtypes.Uint32, dims...)
						n := Reshape(Iota(s.Graph(), shapes.Make(dtypes.Uint32, shape.Size()), 0), dims...)
						return AddScalar(MulScalar(ConvertDType(draw.Mix(Add(n, s)), dtypes.Float32), 1.0/(1<<32)), -0.5)
					}, seed)
					if err != nil {
						b.Fatal(err)
					}
					return t
				}
				x, w, axis := random(1, tokens, c.in), random(2, c.out, c.in), 1
				if c.transpose {
					w, axis = random(2, c.in, c.out), 0
				}
				e, err := NewExec(d.Backend, func(x, w *Node) *Node { return matmul.Contract(x, 1, w, axis) })
				if err != nil {
					b.Fatal(err)
				}
				defer e.Finalize()
				run := func() {
					out, err := e.Call(x, w)
					if err == nil {
						err = backend.Free(out...)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				run()
				b.ResetTimer()
				for range b.N {
					run()
				}
				if err := d.Sync(); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(2*float64(tokens)*float64(c.in)*float64(c.out)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}
