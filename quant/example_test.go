package quant_test

import (
	"encoding/json"
	"fmt"
	"log"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/quant"
)

// ramp returns n values from -1 to 1.
func ramp(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = 2*float32(i)/float32(n-1) - 1
	}
	return x
}

func ExampleQuantize4Bit() {
	packed, state, err := quant.Quantize4Bit(ramp(9), quant.NF4, 64, false)
	if err != nil {
		log.Fatal(err)
	}
	values, err := quant.Dequantize4Bit(packed, state)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("% x, absmax %v\n%.3f\n", packed, state.Absmax, values)
	// Output:
	// 01 24 7a ce f7, absmax [1]
	// [-1.000 -0.696 -0.525 -0.284 0.000 0.246 0.441 0.723 1.000]
}

func ExampleDequantize4Bit() {
	packed, state, err := quant.Quantize4Bit(ramp(64*1024), quant.FP4, 64, true)
	if err != nil {
		log.Fatal(err)
	}
	state.Shape, state.DType = []int{1024, 64}, dtypes.BFloat16 // decode to values that bfloat16 has
	values, err := quant.Dequantize4Bit(packed, state)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(values), "values, the last", values[len(values)-1])
	fmt.Printf("offset %.4f, %d nested absmax\n", state.Nested.Offset, len(state.Nested.Absmax))
	// Output:
	// 65536 values, the last 1
	// offset 0.5010, 4 nested absmax
}

func ExampleQuantize4BitRaw() {
	raw := []byte{0x00, 0x3c, 0x00, 0xbc, 0x00, 0x38, 0x00, 0x00} // float16 1, -1, 0.5, 0
	packed, state, err := quant.Quantize4BitRaw(raw, dtypes.Float16, []int{2, 2}, quant.NF4, 64, false)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("% x %v %v\n", packed, state.Shape, state.DType)
	// Output: f0 c7 [2 2] Float16
}

func ExampleBitsAndBytesConfig() {
	var config quant.BitsAndBytesConfig
	err := json.Unmarshal([]byte(`{"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}`), &config)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(config.QuantType(), config.ComputeDType())
	fmt.Println(config.Skips("model.layers.0.mlp.up_proj"), config.Skips("lm_head"))
	// Output:
	// nf4 Float32
	// false true
}

func ExampleHalfPlanes() {
	packed := []byte{0x01, 0x23, 0x45, 0x67} // codes 0 to 7, the first of each pair in the high nibble
	planes := quant.HalfPlanes(packed)
	fmt.Printf("% x\n% x\n", planes, quant.FromHalfPlanes(planes))
	// Output:
	// 40 51 62 73
	// 01 23 45 67
}

// A weight goes to the device as bytes and becomes values inside a program.
func ExampleLayout_DequantizeNode() {
	packed, state, err := quant.Quantize4Bit(ramp(2*64), quant.NF4, 64, false)
	if err != nil {
		log.Fatal(err)
	}
	state.Shape = []int{2, 64}
	weight, err := quant.NewPacked(packed, state)
	if err != nil {
		log.Fatal(err)
	}
	backend, err := gobackend.New("ops_sequential")
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Finalize()
	var args []any
	for _, in := range weight.Inputs() {
		x, err := tensors.FromRaw(backend, 0, in.Shape, in.Raw)
		if err != nil {
			log.Fatal(err)
		}
		args = append(args, x)
	}
	rowSums, err := graph.NewExec(backend, func(inputs []*graph.Node) *graph.Node {
		return graph.ReduceSum(weight.DequantizeNode(dtypes.Float32, inputs...), 1)
	})
	if err != nil {
		log.Fatal(err)
	}
	out, err := rowSums.Call(args...)
	if err != nil {
		log.Fatal(err)
	}
	sums, err := tensors.CopyFlatData[float32](out[0])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%.2f\n", sums)
	// Output: [-32.10 31.98]
}

// DequantizeNode takes codes and scales as nodes, for callers that keep them apart; AbsmaxNode decodes double-quantized
// scales.
func ExampleDequantizeNode() {
	backend, err := gobackend.New("ops_sequential")
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Finalize()
	exec, err := graph.NewExec(backend, func(codes, absmaxCodes, nested, offset *graph.Node) *graph.Node {
		absmax := quant.AbsmaxNode(absmaxCodes, nested, offset, quant.NestedBlocksize)
		return quant.DequantizeNode(codes, absmax, quant.NF4, 64, shapes.Make(dtypes.Float32, 2, 2))
	})
	if err != nil {
		log.Fatal(err)
	}
	// Codes 15, 0, 7, 12 in two half-planes; the scale's code 255 stands for 1, times 0.5, plus 1.5.
	out, err := exec.Call([]uint8{0x7f, 0xc0}, []uint8{255}, []float32{0.5}, float32(1.5))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(out[0].Value())
	// Output: [[2 -2] [0 0.88141966]]
}

func ExampleConcat() {
	var rows []*quant.Packed
	for _, out := range []int{4, 2, 2} { // q, k and v
		packed, state, err := quant.Quantize4Bit(ramp(out*64), quant.NF4, 64, true)
		if err != nil {
			log.Fatal(err)
		}
		state.Shape = []int{out, 64}
		p, err := quant.NewPacked(packed, state)
		if err != nil {
			log.Fatal(err)
		}
		rows = append(rows, p)
	}
	qkv, err := quant.Concat(rows...)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(qkv.Shape, len(qkv.Codes), "bytes of codes")
	// Output: [8 64] 256 bytes of codes
}

func ExampleStateDict() {
	packed, state, err := quant.Quantize4Bit(ramp(8*64), quant.NF4, 64, true)
	if err != nil {
		log.Fatal(err)
	}
	state.Shape = []int{8, 64}
	dict, err := quant.StateDict("q_proj.weight", packed, state, "")
	if err != nil {
		log.Fatal(err)
	}
	for _, t := range dict {
		fmt.Println(t.Name, t.DType, t.Shape)
	}
	fmt.Println(string(dict[len(dict)-1].Data))
	find := func(key string) (quant.Tensor, bool, error) {
		for _, t := range dict {
			if t.Name == key {
				return t, true, nil
			}
		}
		return quant.Tensor{}, false, nil
	}
	_, read, err := quant.FromStateDict("q_proj.weight", find)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(read.Shape, read.QuantType, read.Nested.Offset == state.Nested.Offset)
	// Output:
	// q_proj.weight U8 [256 1]
	// q_proj.weight.absmax U8 [8]
	// q_proj.weight.quant_map F32 [16]
	// q_proj.weight.nested_absmax F32 [1]
	// q_proj.weight.nested_quant_map F32 [256]
	// q_proj.weight.quant_state.bitsandbytes__nf4 U8 [165]
	// {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [8, 64], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.6242661476135254}
	// [8 64] nf4 true
}
