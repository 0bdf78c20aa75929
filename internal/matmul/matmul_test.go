package matmul_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/matmul"
	"github.com/loris-ml/loris/internal/reference"
)

// values are random numbers that bfloat16 represents.
func values(random *rand.Rand, n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = math.Float32frombits(math.Float32bits(float32(random.NormFloat64())) &^ 0xffff)
	}
	return v
}

func TestProductsOfAnyDTypeAndSizeEqualFloat64(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	limits := map[dtypes.DType]float64{dtypes.Float32: 1e-6, dtypes.BFloat16: 4e-3}
	reference.OnBackends(t, func(t *testing.T, spec string) {
		d, err := backend.Open(spec)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		for dtype, limit := range limits {
			for _, size := range [][3]int{{1, 64, 7}, {5, 33, 64}, {48, 192, 512}, {8, 576, 1000}, {130, 384, 256}} {
				t.Run(fmt.Sprint(dtype, size), func(t *testing.T) {
					m, k, n := size[0], size[1], size[2]
					x, y := values(random, m*k), values(random, n*k)
					want := make([]float32, m*n)
					for i := range m {
						for j := range n {
							sum := 0.0
							for l := range k {
								sum += float64(x[i*k+l]) * float64(y[j*k+l])
							}
							want[i*n+j] = float32(sum)
						}
					}
					xs, err := backend.UploadFloats(d, dtype, x, m, k)
					if err != nil {
						t.Fatal(err)
					}
					ys, err := backend.UploadFloats(d, dtype, y, n, k)
					if err != nil {
						t.Fatal(err)
					}
					exec, err := NewExec(d.Backend, func(x, y *Node) (*Node, *Node, *Node) {
						return matmul.Contract(x, 1, y, 1), matmul.Contract(x, 1, TransposeAllDims(y, 1, 0), 0),
							matmul.Wide(x, []int{1}, nil, y, []int{1}, nil)
					})
					if err != nil {
						t.Fatal(err)
					}
					out, err := exec.Call(xs, ys)
					if err != nil {
						t.Fatal(err)
					}
					for i, o := range out {
						got, err := backend.DownloadFloats(o)
						if err != nil {
							t.Fatal(err)
						}
						if i == 2 { // float32
							reference.CheckClose(t, "wide product", got, want, 1e-6)
						} else {
							reference.CheckClose(t, fmt.Sprint("product ", i), got, want, limit)
						}
					}
				})
			}
		}
	})
}
