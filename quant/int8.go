package quant

import (
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"unsafe"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
)

// Int8 is the type of the weights of LLM.int8() (arXiv:2208.07339), "int8": in a [Layout], one byte a weight and one
// scale a row. It is none of BNB4BitQuantType.
const Int8 QuantType = "int8"

// Int8Weight is a weight [out, in] as bitsandbytes' Linear8bitLt holds it: CB[o][i] = round(W[o][i] · 127/SCB[o]), SCB[o]
// the largest |W[o][i]|. It stands for CB·SCB/127.
//
// Here that is a format of weights only: products are of the decoded weight with unquantized inputs. bitsandbytes also
// quantizes the inputs, but for the columns beyond llm_int8_threshold, which costs accuracy and saves no memory; its
// gradients are of the decoded weight as here.
type Int8Weight struct {
	Shape []int     // [out, in]
	CB    []int8    // [out·in], row-major
	SCB   []float32 // [out]
}

// per127 is the float32 by which bitsandbytes multiplies to divide by 127 (int8_vectorwise_dequant).
const per127 = float32(7.874015718698502e-3)

// QuantizeInt8 encodes the values of a weight of shape [out, in], as bitsandbytes' int8_vectorwise_quant does when a
// model is loaded with load_in_8bit: rounded to float16 first, then to int8, ties to even; a row of zeros is all 0. It
// uses all CPUs. A shape that is no matrix or does not fit the values, and a value that is no finite float16, are errors;
// the last names the value and its index.
func QuantizeInt8(values []float32, shape []int) (*Int8Weight, error) {
	n, err := matrixSize(shape)
	if err != nil {
		return nil, err
	}
	if len(values) != n {
		return nil, fmt.Errorf("%d values for a weight of shape %v, want %d", len(values), shape, n)
	}
	load := func(_ []float32, begin, end int) []float32 { return values[begin:end] }
	return quantizeInt8(load, shape)
}

// QuantizeInt8Raw is [QuantizeInt8] on the little-endian bytes of a tensor of dtype Float32, Float16 or BFloat16. The
// whole tensor never exists in float32.
func QuantizeInt8Raw(raw []byte, dtype dtypes.DType, shape []int) (*Int8Weight, error) {
	n, err := matrixSize(shape)
	if err != nil {
		return nil, err
	}
	load, err := rawLoader(raw, dtype, shape, n)
	if err != nil {
		return nil, err
	}
	return quantizeInt8(load, shape)
}

func quantizeInt8(load loader, shape []int) (*Int8Weight, error) {
	out, in := shape[0], shape[1]
	w := &Int8Weight{Shape: []int{out, in}, CB: make([]int8, out*in), SCB: make([]float32, out)}
	var firstBad atomic.Int64
	firstBad.Store(math.MaxInt64)
	rows := max(1, 1<<14/in)
	parallel(out, rows, func(begin, end int) {
		scratch := make([]float32, in)
		for row := begin; row < end; row++ {
			roundHalves(scratch, load(scratch, row*in, row*in+in))
			bits := absmaxBits(scratch)
			if bits >= infBits {
				lower(&firstBad, int64(row*in+indexNotFinite(scratch)))
				return
			}
			if bits == 0 {
				continue // all codes are 0
			}
			absmax := math.Float32frombits(bits)
			w.SCB[row] = absmax
			scale := float32(1/absmax) * 127 // as torch evaluates 127.0/absmax; finite, as float16 has nothing below 6e-8
			encodeInt8(w.CB[row*in:row*in+in], scratch, scale)
		}
	})
	if i := int(firstBad.Load()); i < out*in {
		bad := load(make([]float32, 1), i, i+1)[0]
		return nil, fmt.Errorf("value %d of %d (shape %v) is %v: LLM.int8() quantizes finite float16, of magnitude 65504 at most; use load_in_4bit, or leave the module unquantized (llm_int8_skip_modules)",
			i, out*in, shape, bad)
	}
	return w, nil
}

// roundMagic, added to a float32 of magnitude below 2^22, leaves it rounded to an integer, ties to even, in its low bits.
const roundMagic = 3 << 22

// encodeInt8Plain writes the codes of a row, x·scale rounded to integers.
func encodeInt8Plain(dst []int8, x []float32, scale float32) {
	dst = dst[:len(x)]
	for i, v := range x {
		dst[i] = int8(math.Float32bits(float32(v*scale) + roundMagic))
	}
}

// roundHalvesPlain rounds x to float16, ties to even, and widens it again. dst may be x.
func roundHalvesPlain(dst, x []float32) {
	dst = dst[:len(x)]
	for i, v := range x {
		dst[i] = roundF16(v)
	}
}

// Dequantize decodes w: [out·in] values, float32(CB·SCB)·(1/127) as bitsandbytes' int8_vectorwise_dequant has it, rounded
// to dtype (Float32, Float16 or BFloat16) and widened again.
func (w *Int8Weight) Dequantize(dtype dtypes.DType) ([]float32, error) {
	if err := w.check(); err != nil {
		return nil, err
	}
	if err := checkDType(dtype); err != nil {
		return nil, err
	}
	round := rounder(dtype)
	values := make([]float32, len(w.CB))
	in := w.Shape[1]
	parallel(w.Shape[0], max(1, 1<<14/in), func(begin, end int) {
		for row := begin; row < end; row++ {
			var table [256]float32 // what the codes are in this row
			for code := range table {
				table[code] = round(float32(float32(int8(code))*w.SCB[row]) * per127)
			}
			dst := values[row*in : row*in+in]
			for i, c := range w.CB[row*in : row*in+in] {
				dst[i] = table[uint8(c)]
			}
		}
	})
	return values, nil
}

// Packed is w as it lies in device memory: a [Layout] of type [Int8] with a block for each row, of which
// [Packed.Inputs] are CB, int8 [out·in], and SCB, float32 [out]. [Concat] stacks such weights whatever their sizes. It
// shares both with w.
func (w *Int8Weight) Packed() (*Packed, error) {
	if err := w.check(); err != nil {
		return nil, err
	}
	return &Packed{
		Layout: Layout{QuantType: Int8, Blocksize: w.Shape[1], Shape: []int{w.Shape[0], w.Shape[1]}},
		Codes:  unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(w.CB))), len(w.CB)),
		Absmax: w.SCB,
	}, nil
}

// int8Weight is p, whose type is Int8, as a host weight.
func (p *Packed) int8Weight() *Int8Weight {
	return &Int8Weight{Shape: p.Shape, CB: signed(p.Codes), SCB: p.Absmax}
}

// signed is the memory of codes, not a copy of it.
func signed(codes []byte) []int8 {
	return unsafe.Slice((*int8)(unsafe.Pointer(unsafe.SliceData(codes))), len(codes))
}

// DequantizeInt8Node decodes codes int8 [out·in] with scb float32 [out] to shape [out, in] of dtype, with the bits of
// [Int8Weight.Dequantize]. No gradient flows to the weight. It panics if dtypes or sizes do not fit.
func DequantizeInt8Node(codes, scb *Node, dtype dtypes.DType, out, in int) *Node {
	checkVector("int8 codes", codes, dtypes.Int8, out*in)
	checkVector("SCB", scb, dtypes.Float32, out)
	values := Mul(ConvertDType(Reshape(codes, out, in), dtypes.Float32), InsertAxes(scb, -1))
	// Kept apart, so that the compiler does not reassociate the two products.
	return ConvertDType(Mul(unfused(values), Scalar(codes.Graph(), dtypes.Float32, per127)), dtype)
}

func (w *Int8Weight) check() error {
	if w == nil {
		return fmt.Errorf("no int8 weight given")
	}
	n, err := matrixSize(w.Shape)
	if err != nil {
		return err
	}
	if len(w.CB) != n || len(w.SCB) != w.Shape[0] {
		return fmt.Errorf("%d CB and %d SCB for an int8 weight of shape %v, want %d and %d", len(w.CB), len(w.SCB), w.Shape, n, w.Shape[0])
	}
	return nil
}

// matrixSize returns the number of values of a matrix's shape.
func matrixSize(shape []int) (int, error) {
	n, err := size(shape)
	if err == nil && len(shape) != 2 {
		err = fmt.Errorf("shape %v: LLM.int8() quantizes matrices [out, in], row by row", shape)
	}
	return n, err
}

// Int8Key is the key whose presence in a checkpoint says that weight ("….q_proj.weight") is an int8 weight: that of its
// scales, "….q_proj.SCB".
func Int8Key(weight string) string { return strings.TrimSuffix(weight, "weight") + "SCB" }

// rowFormat is the only weight_format that bitsandbytes still writes and reads.
const rowFormat = 0

// StateDict returns the tensors that bitsandbytes stores for an int8 weight of this name ("….q_proj.weight"): CB as I8
// [out, in], "….q_proj.SCB" as F32 [out] and "….q_proj.weight_format", the U8 scalar 0, which means row-major.
func (w *Int8Weight) StateDict(weight string) ([]Tensor, error) {
	if err := w.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", weight, err)
	}
	p, err := w.Packed()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", weight, err)
	}
	return []Tensor{
		{weight, "I8", p.Shape, p.Codes},
		f32Tensor(Int8Key(weight), w.SCB),
		{weight + "_format", "U8", []int{}, []byte{rowFormat}},
	}, nil
}

// Int8FromStateDict reads what [Int8Weight.StateDict] writes, from a checkpoint of any bitsandbytes: find returns the
// tensor of a key, false if there is none, whose Data the weight keeps. A weight_format other than row-major, which early versions wrote for some
// GPUs, is an error, as is what is missing or does not fit.
func Int8FromStateDict(weight string, find func(key string) (Tensor, bool, error)) (*Int8Weight, error) {
	r := stateReader{weight: weight, find: find}
	cb := r.tensor(weight, "I8")
	scb := r.tensor(Int8Key(weight), "F32")
	if r.err != nil {
		return nil, r.err
	}
	format, ok, err := find(weight + "_format")
	if err != nil {
		return nil, fmt.Errorf("%s_format: %w", weight, err)
	}
	if ok && (len(format.Data) != 1 || format.Data[0] != rowFormat) {
		return nil, fmt.Errorf("%s_format is %v, want 0 (row-major); save the model again with a present bitsandbytes", weight, format.Data)
	}
	w := &Int8Weight{Shape: cb.Shape, CB: signed(cb.Data), SCB: r.floats(Int8Key(weight), scb)}
	if r.err == nil {
		r.err = w.check()
	}
	if r.err != nil {
		return nil, fmt.Errorf("%s: %w", weight, r.err)
	}
	return w, nil
}
