package models

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gomlx/compute/dtypes"

	"github.com/loris-ml/loris/quant"
)

// encoded is a linear's weight as bitsandbytes has it: in four bits, or in int8.
type encoded struct {
	codes []byte
	state *quant.QuantState
	int8  *quant.Int8Weight
}

// packed is the weight as it lies on the device.
func (e encoded) packed() (*quant.Packed, error) {
	if e.int8 != nil {
		return e.int8.Packed()
	}
	return quant.NewPacked(e.codes, e.state)
}

// values are what the weight stands for, rounded to the dtype of its state.
func (e encoded) values() ([]float32, error) {
	if e.int8 != nil {
		return e.int8.Dequantize(dtypes.Float32)
	}
	return quant.Dequantize4Bit(e.codes, e.state)
}

// stateDict are the tensors of a checkpoint that hold the weight.
func (e encoded) stateDict(name string, q *quant.BitsAndBytesConfig) ([]quant.Tensor, error) {
	if e.int8 != nil {
		return e.int8.StateDict(name)
	}
	return quant.StateDict(name, e.codes, e.state, q.BNB4BitQuantStorage)
}

func (e encoded) shape() []int {
	if e.int8 != nil {
		return e.int8.Shape
	}
	return e.state.Shape
}

// quantized reports whether q quantizes anything.
func quantized(q *quant.BitsAndBytesConfig) bool { return q != nil && (q.LoadIn4Bit || q.LoadIn8Bit) }

// quantizes reports whether the linear at path (below the model, "model.layers.0.mlp.up_proj") is quantized: where the
// checkpoint is, if it holds the linear so, whatever its config says it skipped; else linears of layers as o has it.
func (r *reader) quantizes(path string) bool {
	weight := path + ".weight"
	switch f, ok := r.src.(*folder); {
	case !quantized(r.quantization):
		return false
	case ok && f.quantization != nil:
		return f.holdsQuantized(weight)
	}
	return strings.HasPrefix(path, layersPrefix) && !r.quantization.Skips(path)
}

// quantizesTensor reports whether a tensor of the unquantized checkpoint is a linear's weight that is quantized.
func (r *reader) quantizesTensor(name string, shape []int) bool {
	path, ok := strings.CutSuffix(name, ".weight")
	return ok && len(shape) == 2 && r.quantizes(path)
}

// holdsQuantized also takes bytes without the tensors that say how to read them for a quantized weight: a damaged one.
func (f *folder) holdsQuantized(weight string) bool {
	if info, _ := f.set.Info(f.at(weight)); info.DType == "U8" || info.DType == "I8" {
		return true
	}
	keys := []string{quant.StateKey(weight, quant.NF4), quant.StateKey(weight, quant.FP4), quant.Int8Key(weight)}
	return slices.ContainsFunc(keys, func(key string) bool { _, ok := f.set.Info(f.at(key)); return ok })
}

// encode returns a quantized linear's weight: the bytes of the checkpoint, or made from its values. What the latter decode
// to is not rounded.
func (r *reader) encode(path string, out, in int) (e encoded, err error) {
	if e, ok := r.replaced[path]; ok {
		return e, nil
	}
	weight := path + ".weight"
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: tensor %q: %w", r.src.path(), weight, err)
		}
	}()
	if f, ok := r.src.(*folder); ok && f.quantization != nil {
		return f.encoded(weight, []int{out, in})
	}
	raw, dtype, err := r.whole(weight, out, in)
	if err != nil {
		return e, err
	}
	q := r.quantization
	if q.LoadIn8Bit {
		e.int8, err = quant.QuantizeInt8Raw(raw, dtype, []int{out, in})
		return e, err
	}
	e.codes, e.state, err = quant.Quantize4BitRaw(raw, dtype, []int{out, in}, q.QuantType(), quant.DefaultBlocksize, q.BNB4BitUseDoubleQuant)
	if err == nil {
		e.state.DType = dtypes.Float32
	}
	return e, err
}

// encoded reads a weight that the checkpoint holds quantized.
func (f *folder) encoded(weight string, shape []int) (e encoded, err error) {
	if f.quantization.LoadIn8Bit {
		e.int8, err = quant.Int8FromStateDict(weight, f.find)
	} else {
		e.codes, e.state, err = quant.FromStateDict(weight, f.find)
	}
	if err == nil && !slices.Equal(e.shape(), shape) {
		err = fmt.Errorf("it is quantized from shape %v, want %v as the model's config says", e.shape(), shape)
	}
	return e, err
}

// find reads a tensor whole.
func (f *folder) find(key string) (quant.Tensor, bool, error) {
	info, ok := f.set.Info(f.at(key))
	if !ok {
		return quant.Tensor{}, false, nil
	}
	raw, err := f.set.Read(f.at(key))
	return quant.Tensor{Name: key, DType: info.DType, Shape: info.Shape, Data: raw}, true, err
}

// settle makes o and the quantization of a checkpoint one: that of the checkpoint, with the compute dtype of o. What o
// asks for and the checkpoint is not is an error.
func (o *Options) settle(stored *quant.BitsAndBytesConfig, path string) error {
	if !quantized(stored) {
		return nil
	}
	if o.Trainable {
		return fmt.Errorf("%s: Options.Trainable, but the checkpoint is quantized, and quantized weights cannot be trained; attach adapters with peft.GetPeftModel, or load an unquantized checkpoint", path)
	}
	q := *stored
	if want := o.Quantization; want != nil {
		if err := contradiction(want, stored); err != nil {
			return fmt.Errorf("%s: Options.Quantization contradicts the checkpoint's quantization_config: %w; leave Options.Quantization nil, or load an unquantized checkpoint", path, err)
		}
		if want.BNB4BitComputeDType != "" {
			q.BNB4BitComputeDType = want.BNB4BitComputeDType
		}
	}
	o.Quantization = &q
	return nil
}

// contradiction names the first field in which a wish differs from what a checkpoint is.
func contradiction(want, is *quant.BitsAndBytesConfig) error {
	type field struct {
		name     string
		want, is any
	}
	fields := []field{{"load_in_4bit", want.LoadIn4Bit, is.LoadIn4Bit}, {"load_in_8bit", want.LoadIn8Bit, is.LoadIn8Bit}}
	if is.LoadIn4Bit {
		fields = append(fields, field{"bnb_4bit_quant_type", want.QuantType(), is.QuantType()},
			field{"bnb_4bit_use_double_quant", want.BNB4BitUseDoubleQuant, is.BNB4BitUseDoubleQuant})
	}
	for _, f := range fields {
		if f.want != f.is {
			return fmt.Errorf("%s is %v, the checkpoint's is %v", f.name, f.want, f.is)
		}
	}
	if w := want.LLMInt8SkipModules; w != nil && !slices.Equal(w, is.LLMInt8SkipModules) {
		return fmt.Errorf("llm_int8_skip_modules is %q, the checkpoint's is %q", w, is.LLMInt8SkipModules)
	}
	return nil
}
