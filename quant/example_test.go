package quant_test

import (
	"encoding/json"
	"fmt"
	"iter"
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

func ExampleQuantizeInt8() {
	w, err := quant.QuantizeInt8([]float32{0.5, -1, 0.25, 0, 3, 1}, []int{2, 3}) // [out, in]
	if err != nil {
		log.Fatal(err)
	}
	values, err := w.Dequantize(dtypes.Float32)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(w.CB, w.SCB)
	fmt.Printf("%.3f\n", values)
	// Output:
	// [64 -127 32 0 127 42] [1 3]
	// [0.504 -1.000 0.252 0.000 3.000 0.992]
}

func ExampleQuantizeInt8Raw() {
	raw := []byte{0x80, 0x3f, 0x00, 0xbf} // bfloat16 1, -0.5
	w, err := quant.QuantizeInt8Raw(raw, dtypes.BFloat16, []int{1, 2})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(w.CB, w.SCB)
	// Output: [127 -64] [1]
}

func ExampleInt8Weight_Packed() {
	q, err := quant.QuantizeInt8(ramp(4*8), []int{4, 8})
	if err != nil {
		log.Fatal(err)
	}
	k, err := quant.QuantizeInt8(ramp(2*8), []int{2, 8})
	if err != nil {
		log.Fatal(err)
	}
	var rows []*quant.Packed
	for _, w := range []*quant.Int8Weight{q, k} {
		p, err := w.Packed()
		if err != nil {
			log.Fatal(err)
		}
		rows = append(rows, p)
	}
	qk, err := quant.Concat(rows...) // one weight, decoded by Layout.DequantizeNode as a 4-bit one is
	if err != nil {
		log.Fatal(err)
	}
	for _, in := range qk.Inputs() {
		fmt.Println(in.Shape)
	}
	fmt.Println(qk.QuantType, qk.Shape, qk.Bytes(), "bytes")
	// Output:
	// (Int8)[48]
	// (Float32)[6]
	// int8 [6 8] 72 bytes
}

func ExampleInt8Weight_StateDict() {
	w, err := quant.QuantizeInt8(ramp(32), []int{4, 8})
	if err != nil {
		log.Fatal(err)
	}
	tensors, err := w.StateDict("model.layers.0.self_attn.q_proj.weight")
	if err != nil {
		log.Fatal(err)
	}
	byName := map[string]quant.Tensor{}
	for _, t := range tensors {
		fmt.Println(t.Name, t.DType, t.Shape)
		byName[t.Name] = t
	}
	read, err := quant.Int8FromStateDict("model.layers.0.self_attn.q_proj.weight", func(key string) (quant.Tensor, bool, error) {
		t, ok := byName[key]
		return t, ok, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(read.Shape, read.SCB[0])
	// Output:
	// model.layers.0.self_attn.q_proj.weight I8 [4 8]
	// model.layers.0.self_attn.q_proj.SCB F32 [4]
	// model.layers.0.self_attn.q_proj.weight_format U8 []
	// [4 8] 1
}

func ExampleQuantizeBlockwise() {
	codes, absmax, err := quant.QuantizeBlockwise([]float32{0.5, -1, 0.01, 0}, quant.DynamicMap(true), 256)
	if err != nil {
		log.Fatal(err)
	}
	values, err := quant.DequantizeBlockwise(codes, absmax, quant.DynamicMap(true), 256)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(codes, absmax)
	fmt.Printf("%.5f\n", values) // 0 lies between two steps of the table
	// Output:
	// [219 0 158 131] [1]
	// [0.50078 -0.99297 0.00972 0.00002]
}

func ExampleQuantizeAbsmax() {
	_, state, err := quant.Quantize4Bit(ramp(64*300), quant.NF4, 64, false)
	if err != nil {
		log.Fatal(err)
	}
	nested, err := quant.QuantizeAbsmax(state.Absmax)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d codes, %d scales, offset %.4f\n", len(nested.Codes), len(nested.Absmax), nested.Offset)
	// Output: 300 codes, 2 scales, offset 0.5033
}

func ExampleQuantize4BitNode() {
	backend, err := gobackend.New("")
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Finalize()
	exec, err := graph.NewExec(backend, func(w *graph.Node) []*graph.Node {
		codes, absmax, firstBad := quant.Quantize4BitNode(w, quant.NF4, 64)
		return []*graph.Node{codes, absmax, firstBad}
	})
	if err != nil {
		log.Fatal(err)
	}
	defer exec.Finalize()
	out, err := exec.Call(tensors.FromFlatDataAndDimensions(ramp(256), 4, 64))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(out[0].Shape(), out[1], "first bad value:", out[2].Value())
	// Output: (Uint8)[128] [4]float32{1, 0.498, 0.498, 1} first bad value: 256
}

func ExampleQuantizeBlockwiseNode() {
	backend, err := gobackend.New("")
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Finalize()
	numbers := quant.DynamicMap(true)
	exec, err := graph.NewExec(backend, func(x *graph.Node) *graph.Node {
		codes, absmax := quant.QuantizeBlockwiseNode(x, numbers, 256, quant.Nearest)
		return quant.DequantizeBlockwiseNode(codes, absmax, numbers, 256)
	})
	if err != nil {
		log.Fatal(err)
	}
	defer exec.Finalize()
	out, err := exec.Call([]float32{0.5, -1, 0.01, 0})
	if err != nil {
		log.Fatal(err)
	}
	values, err := tensors.CopyFlatData[float32](out[0])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%.5f\n", values)
	// Output: [0.50078 -0.99297 0.00972 0.00000]
}

// twoWeights is a model as NewReport takes it.
type twoWeights struct{ packed *quant.Packed }

func (m twoWeights) Weights() iter.Seq2[quant.Weight, error] {
	return func(yield func(quant.Weight, error) bool) {
		_ = yield(quant.Weight{Name: "model.norm.weight", Shape: []int{64}, DType: dtypes.Float32}, nil) &&
			yield(quant.Weight{
				Name: "model.layers.0.mlp.up_proj.weight", Shape: m.packed.Shape, Packed: m.packed,
				Original: func() ([]float32, error) { return ramp(64 * 64), nil },
			}, nil)
	}
}

func ExampleNewReport() {
	codes, state, err := quant.Quantize4Bit(ramp(64*64), quant.NF4, 64, true)
	if err != nil {
		log.Fatal(err)
	}
	state.Shape = []int{64, 64}
	packed, err := quant.NewPacked(codes, state)
	if err != nil {
		log.Fatal(err)
	}
	report, err := quant.NewReport(twoWeights{packed})
	if err != nil {
		log.Fatal(err)
	}
	for _, k := range report.Kinds {
		fmt.Printf("%s: %d values, %d bytes\n", k.Kind, k.Values, k.Bytes)
	}
	fmt.Printf("%s: error %.3f\n", report.Layers[0].Layer, report.Layers[0].Error)
	// Output:
	// nf4 double: 4096 values, 2120 bytes
	// float32: 64 values, 256 bytes
	// model.layers.0: error 0.029
}
