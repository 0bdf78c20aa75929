package seam_test

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/seam"
)

func ExampleOpen() {
	plugin, err := seam.Open("cuda", "") // the one at PJRT_PLUGIN_LIBRARY_PATH
	if err != nil {
		fmt.Println(err)
		return
	}
	plugin.SetCacheDir("/var/cache/me/programs")
	backend, err := plugin.NewBackend("preallocate=true,memory_fraction=0.9")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer backend.Finalize()
	if err := seam.SelfTest(backend); err != nil {
		fmt.Println(err)
		return
	}
	if err := plugin.SetDepth(16); err != nil { // programs now return before the device is done
		fmt.Println(err)
		return
	}
	// ...
	if err := plugin.Sync(); err != nil {
		fmt.Println("a program failed:", err)
	}
}

// An operation with a plain twin for all other backends.
func ExampleCall() {
	_ = func(x *graph.Node) *graph.Node {
		if !seam.Available(x.Graph().Backend()) {
			return graph.Tanh(x)
		}
		s := []shapes.Shape{x.Shape()}
		t := seam.TensorType(x.Shape())
		body := fmt.Sprintf("    %%y = \"stablehlo.tanh\"(%%a0) : (%s) -> %s\n", t, t) + seam.Return([]string{"%y"}, s)
		return seam.Call(seam.Body(body), s, x)[0]
	}
}

// A step that updates its first input in place.
func ExampleConfigure() {
	_ = func(weights, gradient *graph.Node) *graph.Node {
		if g := weights.Graph(); seam.Available(g.Backend()) {
			seam.Configure(g, &seam.Program{Donate: []int{0}})
		}
		return graph.Sub(weights, gradient)
	}
}

func ExampleCustomCall_Body() {
	vector := []shapes.Shape{shapes.Make(dtypes.Float32, 5)}
	fmt.Print(seam.CustomCall{Target: "my_target", Config: map[string]any{"rank": int32(8)}}.Body(vector, vector))
	// Output:
	//     %c:1 = "stablehlo.custom_call"(%a0) {call_target_name = "my_target", api_version = 4 : i32, backend_config = {rank = 8 : i32}, operand_layouts = [dense<[0]> : tensor<1xindex>], result_layouts = [dense<[0]> : tensor<1xindex>]} : (tensor<5xf32>) -> (tensor<5xf32>)
	//     "func.return"(%c#0) : (tensor<5xf32>) -> ()
}
