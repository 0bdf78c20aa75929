package nn

import (
	"math"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/backend"
)

// 1/(1-p) rounded to bfloat16 would be 0.2 % off for p = 0.05; torch multiplies in float32 and rounds once.
func TestDroppedValuesInHalfPrecisionAreScaledWithoutBias(t *testing.T) {
	d, err := backend.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, dtype := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16, dtypes.Float16} {
		for _, p := range []float64{0.05, 0.1, 0.3} {
			out, err := CallOnceN(d.Backend, func(rows, index *Node) []*Node {
				l := NewLayer(Shape{}, Batch{RowKeys: rows}, nil)
				l.At(index)
				x := ConvertDType(AddScalar(MulScalar(Iota(rows.Graph(), shapes.Make(dtypes.Float32, 2, 64, 128), 2), 1.0/128), 1), dtype)
				y := ConvertDType(l.Drop(x, "linear", p), dtypes.Float32)
				wide := ConvertDType(x, dtypes.Float32)
				kept := NotEqual(y, ZerosLike(y))
				return []*Node{ReduceAllSum(y), ReduceAllSum(Where(kept, wide, ZerosLike(wide)))}
			}, []uint32{3, 9}, uint32(5))
			if err != nil {
				t.Fatal(err)
			}
			scaled, kept := out[0].Value().(float32), out[1].Value().(float32)
			if got, want := float64(scaled/kept), 1/(1-p); !(math.Abs(got/want-1) < 3e-4) {
				t.Errorf("%s, p = %g: kept values are multiplied by %.5f in the mean, want %.5f", dtype, p, got, want)
			}
		}
	}
}
