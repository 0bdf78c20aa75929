package models

import (
	"errors"
	"fmt"
	"strings"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/nn"
)

// Linear is a linear module of a model: y = x Wᵀ + b, W [Out, In].
type Linear struct {
	Path    string // below the model: "model.layers.0.self_attn.q_proj"
	In, Out int
	Head    bool // the output embedding
}

// Linears lists the model's linear modules in order, the head last.
func (m *CausalLM) Linears() (all []Linear) {
	d, linears := m.arch.dims(), m.arch.tensors().Linears()
	for i := range d.layers {
		for _, l := range linears {
			all = append(all, Linear{Path: layerPrefix(i) + l.Name, In: l.In, Out: l.Out})
		}
	}
	return append(all, Linear{Path: "lm_head", In: d.shape.Hidden, Out: d.vocab, Head: true})
}

// Adapters are LoRA weights on a model's device, layer by layer. Package peft makes them.
type Adapters []*nn.Weights

// LoRA is an adapter on one linear: y += Scaling · B(A(dropout(x))).
type LoRA struct {
	Path    string // of the linear
	R       int
	Scaling float64
	Dropout float64
	A, B    []float32 // [R, In], [Out, R]
}

// NewAdapters uploads adapters, at most one per linear.
func (m *CausalLM) NewAdapters(loras []LoRA) (_ Adapters, err error) {
	byPath := map[string]LoRA{}
	for _, l := range loras {
		if _, double := byPath[l.Path]; double {
			return nil, fmt.Errorf("module %q has two adapters", l.Path)
		}
		byPath[l.Path] = l
	}
	var a Adapters
	linears := m.arch.tensors().Linears()
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	for i := range m.run.Layers {
		b, w := nn.NewLayout(), &nn.Weights{}
		a = append(a, w)
		for _, lin := range linears {
			l, ok := byPath[layerPrefix(i)+lin.Name]
			if !ok {
				continue
			}
			delete(byPath, l.Path)
			if err := m.upload(w, lin, l); err != nil {
				return nil, err
			}
			b.Adapter(lin, nn.Adapter{R: l.R, Scaling: l.Scaling, Dropout: l.Dropout})
		}
		w.Layout = b.Build()
	}
	for path := range byPath {
		return nil, fmt.Errorf("module %q cannot have an adapter: the model has no such linear in its layers", path)
	}
	return a, nil
}

func (m *CausalLM) upload(w *nn.Weights, lin nn.Linear, l LoRA) error {
	if len(l.A) != l.R*lin.In || len(l.B) != lin.Out*l.R {
		return fmt.Errorf("adapter on %q: A has %d values and B %d, want [%d, %d] and [%d, %d]", l.Path, len(l.A), len(l.B), l.R, lin.In, lin.Out, l.R)
	}
	ta, err := backend.UploadValues(m.run.Device, l.A, l.R, lin.In)
	if err != nil {
		return err
	}
	w.Tensors = append(w.Tensors, ta)
	tb, err := backend.UploadValues(m.run.Device, l.B, lin.Out, l.R)
	if err == nil {
		w.Tensors = append(w.Tensors, tb)
	}
	return err
}

// Close frees the adapters.
func (a Adapters) Close() error {
	var errs []error
	for _, w := range a {
		errs = append(errs, backend.Free(w.Tensors...))
	}
	return errors.Join(errs...)
}

// Values downloads the adapters: the current A and B by the path of their linear. It fills in A and B only.
func (a Adapters) Values() (map[string]LoRA, error) {
	out := map[string]LoRA{}
	for i, w := range a {
		for j, s := range w.Layout.Slots {
			values, err := backend.DownloadFloats(w.Tensors[j])
			if err != nil {
				return nil, err
			}
			name, isA := strings.CutSuffix(s.Parts[0].Name, ".lora_A.weight")
			if !isA {
				name = strings.TrimSuffix(name, ".lora_B.weight")
			}
			l := out[layerPrefix(i)+name]
			if isA {
				l.A = values
			} else {
				l.B = values
			}
			out[layerPrefix(i)+name] = l
		}
	}
	return out, nil
}
