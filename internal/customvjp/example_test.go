package customvjp_test

import (
	"fmt"

	"github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/customvjp"
)

// A straight-through estimator: rounds in the forward, passes the gradient on as if it had not.
func ExampleApply() {
	device, err := backend.Open("")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer device.Close()
	outs, err := graph.CallOnceN(device.Backend, func(x *graph.Node) []*graph.Node {
		rounded := customvjp.Apply(
			[]*graph.Node{graph.Round(graph.StopGradient(x))}, []*graph.Node{x},
			func(ins, outs, dOuts []*graph.Node) []*graph.Node { return dOuts })[0]
		return []*graph.Node{rounded, graph.Gradient(graph.ReduceAllSum(graph.Square(rounded)), x)[0]}
	}, []float32{0.4, 1.6, -2.7})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(outs[0].Value(), outs[1].Value())
	// Output: [0 2 -3] [0 4 -6]
}
