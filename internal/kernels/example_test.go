package kernels_test

import (
	"bytes"
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/kernels"
	"github.com/loris-ml/loris/quant"
)

// A linear behind a norm, with its adapter of rank 1: the norm scales x·Aᵀ, dequantization puts B beside W, and one product
// does both.
func Example() {
	d, err := backend.Open("go")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer d.Close()
	layout := quant.Layout{QuantType: quant.NF4, Blocksize: 64, Shape: []int{2, 64}}
	linear := func(codes, absmax, b *Node) []*Node {
		f32 := func(dims ...int) shapes.Shape { return shapes.Make(dtypes.Float32, dims...) }
		g := codes.Graph()
		x, gain := MulScalar(Ones(g, f32(1, 64)), 2), Ones(g, f32(64))
		a := DivScalar(Ones(g, f32(1, 64)), 64)
		xa := Dot(x, Mul(a, InsertAxes(gain, 0))).General([]int{1}, nil, []int{1}, nil)

		h, _, _ := kernels.RMSNorm(x, gain, xa, 8, 0, false)                                                         // [1, 64+8], a one and zeros behind 64 ones
		w := kernels.DequantizeColumns(layout, dtypes.Float32, []kernels.Factor{{X: b, Scale: 1}}, 8, codes, absmax) // [2, 64+8]
		return []*Node{Dot(h, w).General([]int{1}, nil, []int{1}, nil)}
	}
	codes := bytes.Repeat([]byte{0x0f}, 64) // the first row is 1, the second -1
	b := [][]float32{{3}, {5}}
	y, err := CallOnceN(d.Backend, linear, codes, []float32{0.5, 0.25}, b)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(y[0].Value())
	// Output: [[35 -11]]
}

func ExampleGated() {
	d, err := backend.Open("go")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer d.Close()
	y, err := CallOnce(d.Backend, func(gateUp *Node) *Node { return kernels.Gated(kernels.SiLU, gateUp, 8) }, [][]float32{{0, 1, 7, 10}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%.4f\n", y.Value())
	// Output: [[0.0000 7.3106 0.0000 0.0000 0.0000 0.0000 0.0000 0.0000 0.0000 0.0000]]
}
