package safetensors_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/loris-ml/loris/internal/safetensors"
)

func ExampleOpen() {
	f, err := safetensors.Open("testdata/no_metadata.safetensors")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	for _, name := range f.Names() {
		info, _ := f.Info(name)
		values, err := f.Float32(name)
		fmt.Println(name, info.DType, info.Shape, len(values), err)
	}
	// Output: w F32 [2 2] 4 <nil>
}

func ExampleOpenDir() {
	model, err := safetensors.OpenDir("testdata/sharded")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer model.Close()
	info, ok := model.Info("model.layers.1.mlp.down_proj.weight")
	row, err := model.ReadRange(info.Name, 0, info.Size/int64(info.Shape[0]))
	fmt.Println(ok, info.DType, info.Shape, len(row), err)
	// Output: true F32 [16 24] 96 <nil>
}

func ExampleWrite() {
	dir, err := os.MkdirTemp("", "safetensors")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	err = safetensors.Write(filepath.Join(dir, "adapter_model.safetensors"), []safetensors.Tensor{
		{Name: "lora_A.weight", DType: "BF16", Shape: []int{1, 2}, Data: []byte{0x80, 0x3f, 0x00, 0x40}},
	}, map[string]string{"format": "pt"})
	fmt.Println(err)
	// Output: <nil>
}

func ExampleWriteSharded() {
	dir, err := os.MkdirTemp("", "safetensors")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	buffer := make([]byte, 4*4)
	var tensors []safetensors.Source
	for layer := range 3 {
		tensors = append(tensors, safetensors.Source{
			Name: fmt.Sprintf("layers.%d.weight", layer), DType: "F32", Shape: []int{2, 2},
			Data: func() ([]byte, error) { return buffer, nil }, // made when it is written: one tensor in memory at a time
		})
	}
	err = safetensors.WriteSharded(dir, tensors, 32, nil)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		fmt.Println(e.Name())
	}
	fmt.Println(err)
	// Output:
	// model-00001-of-00002.safetensors
	// model-00002-of-00002.safetensors
	// model.safetensors.index.json
	// <nil>
}

func ExampleFloat32s() {
	values, err := safetensors.Float32s("BF16", []byte{0x80, 0x3f, 0x20, 0xc0})
	fmt.Println(values, err)
	// Output: [1 -2.5] <nil>
}
