package gguf_test

import (
	"fmt"

	"github.com/loris-ml/loris/internal/gguf"
)

func ExampleOpen() {
	f, err := gguf.Open("testdata/types.gguf")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	architecture, _ := f.Metadata().String("general.architecture")
	weight, _ := f.Tensor("q4_1.weight")
	values, err := f.Float32("q4_1.weight")
	fmt.Println(architecture, weight.Type, weight.Shape, len(values), err)
	// Output: llama Q4_1 [5 96] 480 <nil>
}
