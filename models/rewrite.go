package models

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/quant"
)

// ReplaceLinears puts new weights [Out, In] into linears of layers, by path: in the format that they have on the device,
// rounded once; quantized ones are quantized anew, as they were. Package peft does so where an adapter starts from a part of
// its base's weights. Nothing may be running on the model. by says what the weights are for: see [CausalLM.Altered].
//
// An error says at which layer replacing ended. What SavePretrained writes afterwards are the new weights; those of quantized
// linears stay in memory for that, in their quantized form.
func (m *CausalLM) ReplaceLinears(by string, weights map[string][]float32) error {
	layers := map[int]bool{}
	at := map[string]int{}
	sizes := map[string]Linear{}
	for i := range m.run.Layers {
		for _, l := range m.arch.tensors().Linears() {
			path := layerPrefix(i) + l.Name
			at[path], sizes[path] = i, Linear{Path: path, In: l.In, Out: l.Out}
		}
	}
	for path, w := range weights {
		i, ok := at[path]
		if !ok {
			return fmt.Errorf("replace weights: the model's layers have no linear %q", path)
		}
		if l := sizes[path]; len(w) != l.In*l.Out {
			return fmt.Errorf("replace weights of %q: %d values, want [%d, %d]", path, len(w), l.Out, l.In)
		}
		layers[i] = true
	}
	m.altered = by
	for _, i := range slices.Sorted(maps.Keys(layers)) {
		if err := m.replaceLayer(i, weights); err != nil {
			return fmt.Errorf("replace weights of layer %d: %w", i, err)
		}
	}
	return nil
}

// ReplaceBiases puts new biases [Out] into linears of layers, by path, as ReplaceLinears does with weights. Those of a model
// with quantized weights cannot be replaced.
func (m *CausalLM) ReplaceBiases(by string, biases map[string][]float32) error {
	if len(biases) > 0 && quantized(m.options.Quantization) {
		return errors.New("replace biases: the model's weights are quantized; save it merged instead (SaveMerged)")
	}
	for i := range m.run.Layers {
		for _, l := range m.arch.tensors().Linears() {
			b, ok := biases[layerPrefix(i)+l.Name]
			if !ok {
				continue
			}
			if !l.Bias || len(b) != l.Out {
				return fmt.Errorf("replace bias of %q: %d values for a linear of %d outputs, bias %v", layerPrefix(i)+l.Name, len(b), l.Out, l.Bias)
			}
			m.altered = by
			if err := m.replaceRows(i, l.Name+".bias", b); err != nil {
				return fmt.Errorf("replace bias of %q: %w", layerPrefix(i)+l.Name, err)
			}
		}
	}
	return nil
}

// Altered tells for what weights have been replaced since the model was loaded, "" if none have.
func (m *CausalLM) Altered() string { return m.altered }

// replaceLayer replaces the linears of layer i that weights has.
func (m *CausalLM) replaceLayer(i int, weights map[string][]float32) error {
	reload, rows := false, map[string][]float32{}
	for _, l := range m.arch.tensors().Linears() {
		path := layerPrefix(i) + l.Name
		w, ok := weights[path]
		if !ok {
			continue
		}
		r := m.newReader()
		if !r.quantizes(path) {
			rows[l.Name+".weight"] = w
			continue
		}
		e, err := requantized(r, path, l, w)
		if err != nil {
			return err
		}
		if m.replaced == nil {
			m.replaced = map[string]encoded{}
		}
		m.replaced[path], reload = e, true
	}
	if reload { // before the rows, which the source does not have
		if err := m.reloadQuantized(i); err != nil {
			return err
		}
	}
	for name, w := range rows {
		if err := m.replaceRows(i, name, w); err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
	}
	return nil
}

// requantized is w in the quantized form of the weight at path.
func requantized(r *reader, path string, l nn.Linear, w []float32) (encoded, error) {
	was, err := r.encode(path, l.Out, l.In)
	if err != nil {
		return was, err
	}
	e, err := was.again(w)
	if err != nil {
		err = fmt.Errorf("%q: %w", path, err)
	}
	return e, err
}

// again quantizes other values as e is.
func (e encoded) again(values []float32) (encoded, error) {
	if e.int8 != nil {
		w, err := quant.QuantizeInt8(values, e.int8.Shape)
		return encoded{int8: w}, err
	}
	codes, state, err := quant.Quantize4Bit(values, e.state.QuantType, e.state.Blocksize, e.state.Nested != nil)
	if err == nil {
		state.Shape, state.DType = e.state.Shape, e.state.DType
	}
	return encoded{codes: codes, state: state}, err
}

// replaceRows uploads the tensor of layer i that holds the weight of that name with other values in its rows.
func (m *CausalLM) replaceRows(i int, name string, w []float32) error {
	layer := m.run.Layers[i]
	for j, slot := range layer.Layout.Slots {
		first := 0
		for _, p := range slot.Parts {
			if p.Name != name {
				first += p.Rows
				continue
			}
			old := layer.Tensors[j]
			all, err := backend.DownloadFloats(old)
			if err != nil {
				return err
			}
			width := len(all) / old.Shape().Dim(0)
			copy(all[first*width:(first+p.Rows)*width], w)
			fresh, err := backend.UploadFloats(m.run.Device, old.DType(), all, old.Shape().Dimensions...)
			if err != nil {
				return err
			}
			layer.Tensors[j] = fresh
			return backend.Free(old)
		}
	}
	return fmt.Errorf("the device has no weight %q", layerPrefix(i)+name)
}

// reloadQuantized makes the tensors of layer i anew from the source and what has replaced it, and keeps the others.
func (m *CausalLM) reloadQuantized(i int) (err error) {
	l := &loader{reader: *m.newReader(), arch: m.arch, o: m.options, dev: m.run.Device, compute: m.run.Shape.Compute}
	l.dtype = m.run.Norm.DType()
	defer func() { err = errors.Join(err, l.staging.free()) }()
	old := m.run.Layers[i]
	fresh, err := l.layer(m.arch.tensors(), i, m.arch.dims().kind(i))
	if err != nil {
		return err
	}
	if fresh.Layout.Key() != old.Layout.Key() {
		return errors.Join(errors.New("its layout has changed"), backend.Free(fresh.Tensors...))
	}
	m.run.Layers[i] = fresh
	return backend.Free(old.Tensors...)
}

// OriginalLinear returns the weight [Out, In] of a linear as it was before quantization, from what the model was loaded from,
// which must still be there: an error where that was quantized already. Of an unquantized linear it is [CausalLM.Tensor].
func (m *CausalLM) OriginalLinear(path string) (values []float32, err error) {
	r, name := m.newReader(), path+".weight"
	if !r.quantizes(path) {
		return m.Tensor(name)
	}
	if f, ok := r.src.(*folder); ok && f.quantization != nil {
		return nil, fmt.Errorf("tensor %q: %s holds it quantized; its values before that are lost", name, strings.TrimSuffix(r.src.path(), "/"))
	}
	defer func() { err = errors.Join(err, r.staging.free()) }()
	shape, _ := r.src.shape(name)
	return r.values(name, shape)
}

// SumOf is the weight [Out, In] of a linear with an adapter in it, W + Scaling·B·A in float32. The model stays as it is.
func (m *CausalLM) SumOf(l LoRA) ([]float32, error) {
	s := &saver{m: m, merge: map[string]LoRA{l.Path: l}}
	if err := s.checkMerge(); err != nil {
		return nil, err
	}
	return s.values(l.Path, l.Path+".weight")
}
