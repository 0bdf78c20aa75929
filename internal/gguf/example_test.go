package gguf_test

import (
	"fmt"
	"os"
	"path/filepath"

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

func ExampleWrite() {
	dir, err := os.MkdirTemp("", "gguf")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "norm.gguf")
	err = gguf.Write(path, []gguf.Pair{{Key: "general.architecture", Value: "llama"}}, []gguf.Source{{
		Name: "output_norm.weight", Shape: []int{2}, Type: gguf.F32,
		Data: func() ([]byte, error) { return gguf.Encode(gguf.F32, []float32{1, 0.5}) },
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	f, err := gguf.Open(path)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	fmt.Println(f.Float32("output_norm.weight"))
	// Output: [1 0.5] <nil>
}
