package peft

import (
	"fmt"
	"slices"
	"strings"

	"github.com/loris-ml/loris/internal/safetensors"
	"github.com/loris-ml/loris/models"
)

// moduleCopy is a module of the base of which a set of adapters trains a copy of its own, in its place: a linear, a norm, the
// embedding or the head.
type moduleCopy struct {
	path    string
	out, in int // of the weight [out, in]; in is 0 of a norm's gain [out]
	bias    bool
}

// copyable are the modules that may be copied.
func (p *PeftModel) copyable() (all []moduleCopy) {
	e := p.base.Embedding()
	all = append(all, moduleCopy{path: e.Path, out: e.In, in: e.Out})
	for _, n := range p.base.Norms() {
		all = append(all, moduleCopy{path: n.Path, out: n.Size})
	}
	for _, l := range p.base.Linears() {
		all = append(all, moduleCopy{path: l.Path, out: l.Out, in: l.In, bias: l.Bias})
	}
	return all
}

// saved are the modules that modules_to_save names, as PEFT finds them: by the end of a module's path or of one that holds it,
// whole names or not. Names that match nothing are warned about; if none match, that is an error.
func (p *PeftModel) saved(names []string) (found []moduleCopy, err error) {
	var idle moduleNames
	all := p.copyable()
	for _, name := range names {
		if strings.HasSuffix("model.layers", name) {
			return nil, fmt.Errorf("modules_to_save %q is the list of all layers, which cannot be trained as one module; name what is in the layers", name)
		}
		if !slices.ContainsFunc(all, func(m moduleCopy) bool { return saves(name, m.path) }) {
			idle = append(idle, name)
		}
	}
	switch {
	case len(idle) > 0 && len(idle) == len(names):
		return nil, fmt.Errorf("modules_to_save %v: the model has no such modules; it has norms and linears as %q, %q and %q", idle, all[1].path, all[len(all)-2].path, all[len(all)-1].path)
	case len(idle) > 0:
		p.opts.logger.Warn("modules_to_save names modules that the model does not have", "names", idle.String())
	}
	for _, m := range all {
		if slices.ContainsFunc(names, func(name string) bool { return saves(name, m.path) }) {
			found = append(found, m)
		}
	}
	return found, nil
}

// saves tells whether a name in modules_to_save is that of the module at path, or of one that holds it below the list of
// layers.
func saves(name, path string) bool {
	for strings.Count(path, ".") >= 2 || path == models.HeadPath || path == models.EmbeddingPath || path == models.NormPath {
		if strings.HasSuffix(path, name) {
			return true
		}
		path = path[:max(0, strings.LastIndexByte(path, '.'))]
	}
	return false
}

// ofBase are the values that a copy starts from.
func (p *PeftModel) ofBase(m moduleCopy) (weight, bias []float32, err error) {
	path := m.path
	if path == models.HeadPath && p.base.Tied() {
		path = models.EmbeddingPath
	}
	if weight, err = p.base.Tensor(path + ".weight"); err == nil && m.bias {
		bias, err = p.base.Tensor(path + ".bias")
	}
	return weight, bias, err
}

// copies are modules as the model takes them, with the values that each gives.
func (p *PeftModel) copies(modules []moduleCopy, values func(m moduleCopy) (weight, bias []float32, err error)) (all []models.LoRA, err error) {
	for _, m := range modules {
		if p.base.Quantized(m.path) {
			return nil, fmt.Errorf("module %q: a copy of it would be of quantized numbers, which cannot be trained, as in PEFT; name modules that are not quantized, give it a LoRA, or load the base unquantized", m.path)
		}
		weight, bias, err := values(m)
		if err != nil {
			return nil, err
		}
		all = append(all, m.lora(weight, bias))
	}
	return all, nil
}

func (m moduleCopy) lora(weight, bias []float32) models.LoRA {
	return models.LoRA{Path: m.path, Full: weight, FullBias: bias}
}

func (m moduleCopy) parameters() int64 {
	n := int64(m.out) * int64(max(1, m.in))
	if m.bias {
		n += int64(m.out)
	}
	return n
}

// shape is that of the weight.
func (m moduleCopy) shape() []int {
	if m.in == 0 {
		return []int{m.out}
	}
	return []int{m.out, m.in}
}

// tensors are a copy's in files; infix is between the module's path and the tensor's name.
func (m moduleCopy) tensors(infix string, l models.LoRA) []safetensors.Tensor {
	all := []safetensors.Tensor{{Name: keyPrefix + m.path + infix + suffixFull, DType: "F32", Shape: m.shape(), Data: littleEndian(l.Full)}}
	if m.bias {
		all = append(all, safetensors.Tensor{Name: keyPrefix + m.path + infix + suffixUntouched, DType: "F32", Shape: []int{m.out}, Data: littleEndian(l.FullBias)})
	}
	return all
}

// readCopy reads a copy; infix is what its keys have between the module's path and the tensor's name, an adapter's name aside.
func (f *weightsFile) readCopy(m moduleCopy, infix string) (weight, bias []float32, err error) {
	if weight, err = f.copied(m, infix, "weight", m.shape()); err == nil && m.bias {
		bias, err = f.copied(m, infix, "bias", []int{m.out})
	}
	return weight, bias, err
}

func (f *weightsFile) copied(m moduleCopy, infix, name string, shape []int) ([]float32, error) {
	for _, key := range f.Names() {
		parts := copyKey.FindStringSubmatch(key)
		if parts == nil || parts[1] != m.path || !strings.HasPrefix(parts[2], infix) || infix == "" && strings.HasPrefix(parts[2], ".ln_") || parts[3] != name {
			continue
		}
		if info, _ := f.Info(key); !slices.Equal(info.Shape, shape) {
			return nil, fmt.Errorf("%s: tensor %q is %v, the model's is %v", f.path, key, info.Shape, shape)
		}
		return f.Float32(key)
	}
	return nil, fmt.Errorf("%s: it has no tensor %q, which %s asks for", f.path, keyPrefix+m.path+infix+"."+name, ConfigName)
}
