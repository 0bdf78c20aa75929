package models

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/nn"
)

// NormPath is the path of the final norm.
const NormPath = "model." + layerwise.NormName

// Norm is a normalization of a model, with one gain per feature.
type Norm struct {
	Path string // below the model: "model.layers.0.input_layernorm"
	Size int
}

// Norms lists the model's norms in order, the final one last.
func (m *CausalLM) Norms() (all []Norm) {
	d, norms := m.arch.dims(), m.arch.tensors().Norms
	for i := range d.layers {
		for _, n := range norms {
			all = append(all, Norm{layerPrefix(i) + n.Name, n.Size})
		}
	}
	return append(all, Norm{NormPath, d.shape.Hidden})
}

// Quantized tells whether the weight of the module at path is that of a quantized one.
func (m *CausalLM) Quantized(path string) bool {
	name := path + ".weight"
	return m.newReader().quantizesTensor(name, tensorShapes(m.arch)[name])
}

// addCopies uploads what byPath has in place of norms and linears of layer i, and takes it out.
func (m *CausalLM) addCopies(b *nn.LayoutBuilder, w *nn.Weights, i int, byPath map[string]LoRA) error {
	block := m.arch.tensors()
	for _, n := range block.Norms {
		l, ok := byPath[layerPrefix(i)+n.Name]
		if !ok {
			continue
		}
		delete(byPath, l.Path)
		if err := m.addNorm(b, w, n, l); err != nil {
			return err
		}
	}
	for _, lin := range block.Linears() {
		l, ok := byPath[layerPrefix(i)+lin.Name]
		if !ok || l.Full == nil {
			continue
		}
		delete(byPath, l.Path)
		if err := m.addLinear(b, w, lin, l); err != nil {
			return err
		}
	}
	return nil
}

// addNorm uploads a gain of the adapter's own.
func (m *CausalLM) addNorm(b *nn.LayoutBuilder, w *nn.Weights, n nn.Norm, l LoRA) error {
	if err := l.checkCopy(n.Size, 0); err != nil {
		return err
	}
	b.Norm(n, dtypes.Float32, true)
	return m.put(w, l.Full, n.Size)
}

// addLinear uploads a weight of the adapter's own, and its bias.
func (m *CausalLM) addLinear(b *nn.LayoutBuilder, w *nn.Weights, lin nn.Linear, l LoRA) error {
	bias := 0
	if lin.Bias {
		bias = lin.Out
	}
	if err := l.checkCopy(lin.Out*lin.In, bias); err != nil {
		return err
	}
	b.Dense([]nn.Linear{lin}, dtypes.Float32, true)
	if err := m.put(w, l.Full, lin.Out, lin.In); err != nil || !lin.Bias {
		return err
	}
	return m.put(w, l.FullBias, lin.Out)
}

// put uploads a tensor of w in float32.
func (m *CausalLM) put(w *nn.Weights, values []float32, dims ...int) error {
	t, err := backend.UploadValues(m.run.Device, values, dims...)
	if err == nil {
		w.Tensors = append(w.Tensors, t)
	}
	return err
}

// checkCopy checks a copy of a norm or linear, of so many values and biases.
func (l LoRA) checkCopy(values, biases int) error {
	switch {
	case l.R != 0 || l.Magnitude != nil || l.Shift != nil || l.Tokens != nil || l.Virtual != nil:
		return fmt.Errorf("adapter on %q: a copy of the module has no adapter beside it", l.Path)
	case len(l.Full) != values || len(l.FullBias) != biases:
		return fmt.Errorf("adapter on %q: its copy of the module has %d values and %d biases, want %d and %d", l.Path, len(l.Full), len(l.FullBias), values, biases)
	}
	return nil
}

// copyValues downloads the copies of a layer, or of the final norm.
func copyValues(w *nn.Weights, prefix string, out map[string]LoRA) error {
	for _, c := range w.Layout.Copies() {
		if atEnds := prefix == "model."; atEnds && c.Name != layerwise.NormName {
			continue // see endValues
		}
		var l LoRA
		var err error
		if l.Full, err = backend.DownloadFloats(w.Tensors[c.Weight]); err != nil {
			return err
		}
		if c.Bias >= 0 {
			if l.FullBias, err = backend.DownloadFloats(w.Tensors[c.Bias]); err != nil {
				return err
			}
		}
		out[prefix+c.Name] = l
	}
	return nil
}

// checkMergedCopy checks a copy against the tensors of a checkpoint.
func (l LoRA) checkMergedCopy(shapes map[string][]int) error {
	weight, bias := shapes[l.Path+".weight"], shapes[l.Path+".bias"]
	if weight == nil {
		return fmt.Errorf("the model has no module %q", l.Path)
	}
	biases := 0
	if bias != nil {
		biases = size(bias)
	}
	return l.checkCopy(size(weight), biases)
}
