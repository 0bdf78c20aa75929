package models

import (
	"fmt"
	"iter"
	"strings"

	"github.com/loris-ml/loris/internal/safetensors/floats"
	"github.com/loris-ml/loris/quant"
)

// Weights lists the model's weights, layer after layer, for [quant.NewReport]. Those that are quantized are read and
// quantized again, one at a time, from what the model was loaded from, which must still be there; their original values
// are at hand unless that was quantized already.
func (m *CausalLM) Weights() iter.Seq2[quant.Weight, error] {
	return func(yield func(quant.Weight, error) bool) {
		r := m.newReader()
		defer r.staging.free() // memory of this process: nothing to tell
		shapes := tensorShapes(m.arch)
		for _, name := range m.tensorNames() {
			w, err := m.weightOf(r, name, shapes[name])
			if !yield(w, err) || err != nil {
				return
			}
		}
	}
}

// tensorNames lists the tensors of a checkpoint in the order in which the model computes with them.
func (m *CausalLM) tensorNames() []string {
	names := []string{"model.embed_tokens.weight"}
	d, block := m.arch.dims(), m.arch.tensors()
	for i := range d.layers {
		for _, n := range block.Norms {
			names = append(names, layerPrefix(i)+n.Name+".weight")
		}
		for _, l := range block.Linears() {
			names = append(names, layerPrefix(i)+l.Name+".weight")
			if l.Bias {
				names = append(names, layerPrefix(i)+l.Name+".bias")
			}
		}
	}
	names = append(names, "model.norm.weight")
	if !d.tied {
		names = append(names, "lm_head.weight")
	}
	return names
}

func (m *CausalLM) weightOf(r *reader, name string, shape []int) (quant.Weight, error) {
	w := quant.Weight{Name: name, Shape: shape, DType: m.run.Norm.DType()}
	if !r.quantizesTensor(name, shape) {
		return w, nil
	}
	e, err := r.encode(strings.TrimSuffix(name, ".weight"), shape[0], shape[1])
	if err != nil {
		return w, err
	}
	if w.Packed, err = e.packed(); err != nil {
		return w, fmt.Errorf("tensor %q: %w", name, err)
	}
	if name == "lm_head.weight" || !m.packs {
		w.Kept = w.DType
	} else {
		w.DType = m.run.Shape.Compute
	}
	if f, ok := r.src.(*folder); !ok || f.quantization == nil {
		w.Original = func() ([]float32, error) { return r.values(name, shape) }
	}
	return w, nil
}

// values reads a tensor of the source as float32.
func (r *reader) values(name string, shape []int) ([]float32, error) {
	raw, dtype, err := r.whole(name, shape...)
	if err != nil {
		return nil, err
	}
	values := make([]float32, size(shape))
	return values, floats.Decode(values, fileDTypes[dtype], raw)
}
