package layerwise

import (
	"math"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

func TestNoiseIsUniformAndKeyedByRow(t *testing.T) {
	const rows, length, width, amount = 3, 19, 31, 0.25
	for _, d := range testDevices(t) {
		draw := func(keys []uint32) []float32 {
			out, err := CallOnce(d.Backend, func(keys *Node) *Node {
				x := Zeros(keys.Graph(), shapes.Make(dtypes.Float32, rows, length, width))
				return noisy(x, keys, amount)
			}, keys)
			if err != nil {
				t.Fatal(err)
			}
			values, err := tensors.CopyFlatData[float32](out)
			if err != nil {
				t.Fatal(err)
			}
			return values
		}
		x := draw([]uint32{7, 7, 8})
		var sum, squares, low, high float64
		for _, v := range x {
			f := float64(v) / amount
			sum, squares, low, high = sum+f, squares+f*f, min(low, f), max(high, f)
		}
		n := float64(len(x))
		if low < -1 || high > 1 || low > -0.99 || high < 0.99 {
			t.Errorf("%s: between %v and %v, want nearly -1 and 1", d.Kind, low, high)
		}
		if math.Abs(sum/n) > 4/math.Sqrt(3*n) || math.Abs(squares/n-1.0/3) > 0.03 {
			t.Errorf("%s: mean %v and mean square %v, want 0 and 1/3", d.Kind, sum/n, squares/n)
		}
		row := length * width
		for i := range row {
			if x[i] != x[row+i] {
				t.Fatalf("%s: rows of one key differ", d.Kind)
			}
		}
		equal := 0
		for i := range row {
			if x[i] == x[2*row+i] {
				equal++
			}
		}
		if equal > 2 {
			t.Errorf("%s: %d of %d numbers are equal in rows of two keys", d.Kind, equal, row)
		}
	}
}
