package attention_test

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/backend"
)

func ExampleAttend() {
	d, err := backend.Open("")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer d.Close()
	out, err := CallOnce(d.Backend, func(g *Graph) *Node {
		q := Ones(g, shapes.Make(dtypes.Float32, 1, 3, 4, 8))    // 3 tokens, 4 heads
		k := Ones(g, shapes.Make(dtypes.Float32, 1, 3, 2, 8))    // 2 key-value heads, each for 2 query heads
		v := Iota(g, shapes.Make(dtypes.Float32, 1, 3, 2, 8), 1) // the token's number
		return Squeeze(SliceAxis(SliceAxis(attention.Attend(q, k, v, attention.Options{Causal: true}), -1, AxisRange(0, 1)), 2, AxisRange(0, 1)))
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(out.Value()) // means over the tokens seen so far
	// Output: [0 0.5 1]
}
