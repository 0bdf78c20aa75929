package models

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/nn"
)

// Linear is a linear module of a model: y = x Wᵀ + b, W [Out, In].
type Linear struct {
	Path    string // below the model: "model.layers.0.self_attn.q_proj"
	In, Out int
	Head    bool // the output embedding
	Bias    bool // it has b
}

// Linears lists the model's linear modules in order, the head last.
func (m *CausalLM) Linears() (all []Linear) {
	d, linears := m.arch.dims(), m.arch.tensors().Linears()
	for i := range d.layers {
		for _, l := range linears {
			all = append(all, Linear{Path: layerPrefix(i) + l.Name, In: l.In, Out: l.Out, Bias: l.Bias})
		}
	}
	return append(all, Linear{Path: "lm_head", In: d.shape.Hidden, Out: d.vocab, Head: true})
}

// Adapters are LoRA weights on a model's device, layer by layer. Package peft makes them.
type Adapters []*nn.Weights

// LoRA is an adapter on one linear: y += Scaling · B(A(dropout(x))); with Tuned, that of another tuner.
type LoRA struct {
	Path    string // of the linear
	R       int
	Scaling float64
	Dropout float64
	A, B    []float32 // [R, In], [Out, R]
	// Magnitude [Out] makes it a DoRA (arXiv:2402.09353): the rows of W + Scaling·B·A are given these lengths. Nil: none.
	Magnitude []float32
	// Shift [Out] is added to what the linear puts out, ShiftScale times. Nil: none. With R 0, it is all that there is.
	Shift      []float32
	ShiftScale float64
	// Tuned is the adapter of another tuner, in place of A and B. Nil: none.
	Tuned *Tuned
	// At the model's ends (EmbeddingPath, HeadPath), in place of A and B: Full is the whole weight [vocab, hidden]; Rows [n,
	// hidden] are those of the embedding for Tokens, and of a head that is tied to it.
	Full   []float32
	Tokens []int
	Rows   []float32
	// In a layer, Full in place of all else is a copy of the linear's weight [Out, In], with FullBias [Out] where it has one, or of
	// a norm's gain [size]: it is trained, and the programs compute with it in place of the base's. Of NormPath, too.
	FullBias []float32
	TieHead  bool     // Full of the embedding is the head's, too, which the base's is tied to
	Virtual  *Virtual // of VirtualPath, all that there is; nil elsewhere
	// PadTo, if not 0, is the rank with which the adapter lies on the device, its scaling beside it: adapters that are
	// padded to one rank share their programs. The rows and columns beyond R are zeros, and training leaves them so.
	PadTo int
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
	virtual := byPath[VirtualPath].Virtual
	if virtual != nil {
		if err := virtual.check(m); err != nil {
			return nil, err
		}
	}
	var a Adapters
	linears, shared := m.arch.tensors().Linears(), sharedTensors{}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	for i := range m.run.Layers {
		b, w := nn.NewLayout(), &nn.Weights{}
		a = append(a, w)
		if err := m.addCopies(b, w, i, byPath); err != nil {
			return nil, err
		}
		if err := m.addPrefix(b, w, i, virtual); err != nil {
			return nil, err
		}
		var squares map[string][]float32
		for _, lin := range linears {
			l, ok := byPath[layerPrefix(i)+lin.Name]
			if !ok {
				continue
			}
			delete(byPath, l.Path)
			if err := l.check(lin); err != nil {
				return nil, err
			}
			if l.Magnitude != nil && squares == nil {
				if squares, err = m.run.RowSquares(i); err != nil {
					return nil, err
				}
			}
			if err := m.upload(w, lin, l.padded(lin), squares[lin.Name]); err != nil {
				return nil, err
			}
			if l.Tuned != nil {
				if err := m.uploadTuned(w, l.Tuned, shared); err != nil {
					return nil, err
				}
				l.Tuned.tunedLayout(b, lin)
			}
			if l.R > 0 {
				b.Adapter(lin, nn.Adapter{R: max(l.R, l.PadTo), Scaling: l.Scaling, Dropout: l.Dropout, ScaleInput: l.PadTo > 0, DoRA: l.Magnitude != nil})
			}
			if l.Shift != nil {
				b.Shift(lin, l.ShiftScale)
			}
		}
		w.Layout = b.Build()
	}
	ends, err := m.newEnds(byPath)
	if err != nil {
		return nil, err
	}
	if ends != nil {
		a = append(a, ends)
	}
	for path := range byPath {
		return nil, fmt.Errorf("module %q cannot have an adapter: the model has no such linear", path)
	}
	return a, nil
}

func (l LoRA) check(lin nn.Linear) error {
	if l.Tuned != nil {
		if l.R != 0 || l.Magnitude != nil || l.Shift != nil {
			return fmt.Errorf("adapter on %q: Tuned stands in place of a LoRA", l.Path)
		}
		return l.Tuned.check(l.Path)
	}
	if len(l.A) != l.R*lin.In || len(l.B) != lin.Out*l.R {
		return fmt.Errorf("adapter on %q: A has %d values and B %d, want [%d, %d] and [%d, %d]", l.Path, len(l.A), len(l.B), l.R, lin.In, lin.Out, l.R)
	}
	if l.Shift != nil && len(l.Shift) != lin.Out {
		return fmt.Errorf("adapter on %q: its shift has %d values, want [%d]", l.Path, len(l.Shift), lin.Out)
	}
	if l.Magnitude != nil && len(l.Magnitude) != lin.Out {
		return fmt.Errorf("adapter on %q: its magnitude has %d values, want [%d]", l.Path, len(l.Magnitude), lin.Out)
	}
	if l.PadTo > 0 && l.PadTo < l.R {
		return fmt.Errorf("adapter on %q: its rank %d is more than %d, to which adapters are padded", l.Path, l.R, l.PadTo)
	}
	return nil
}

// padded has zeros up to its rank on the device.
func (l LoRA) padded(lin nn.Linear) LoRA {
	if l.PadTo <= l.R {
		return l
	}
	a, b := make([]float32, l.PadTo*lin.In), make([]float32, lin.Out*l.PadTo)
	copy(a, l.A)
	for o := range lin.Out {
		copy(b[o*l.PadTo:], l.B[o*l.R:(o+1)*l.R])
	}
	l.A, l.B, l.R = a, b, l.PadTo
	return l
}

// upload appends the tensors of l, whose values have been checked; squares are the squared norms of the weight's rows.
func (m *CausalLM) upload(w *nn.Weights, lin nn.Linear, l LoRA, squares []float32) error {
	var err error
	put := func(values []float32, dims ...int) {
		if err != nil {
			return
		}
		t, failed := backend.UploadValues(m.run.Device, values, dims...)
		if err = failed; err == nil {
			w.Tensors = append(w.Tensors, t)
		}
	}
	if l.R > 0 {
		put(l.A, l.R, lin.In)
		put(l.B, lin.Out, l.R)
		if l.PadTo > 0 {
			put([]float32{float32(l.Scaling)})
		}
	}
	if l.Magnitude != nil {
		put(l.Magnitude, lin.Out)
		put(squares, lin.Out)
	}
	if l.Shift != nil {
		put(l.Shift, lin.Out)
	}
	return err
}

// Close frees the adapters.
func (a Adapters) Close() error {
	var errs []error
	freed := map[*tensors.Tensor]bool{}
	for _, w := range a {
		for _, t := range w.Tensors {
			if !freed[t] { // frozen ones are shared
				errs = append(errs, backend.Free(t))
			}
			freed[t] = true
		}
	}
	return errors.Join(errs...)
}

// Values downloads the adapters: the current A, B, Magnitude and Shift by the path of their linear, padded as they lie on the
// device. It fills in these and R only; at the model's ends Full or Rows in their place, of copies Full and FullBias, of
// virtual tokens Virtual, of other tuners the trained Tensors of Tuned.
func (a Adapters) Values() (map[string]LoRA, error) {
	out := map[string]LoRA{}
	virtual, err := a.virtual()
	if err != nil {
		return nil, err
	}
	if virtual != nil {
		out[VirtualPath] = LoRA{Virtual: virtual}
	}
	for i, w := range a {
		if w.Layout.Kind() == endsKind {
			if err := errors.Join(endValues(w, out), copyValues(w, "model.", out)); err != nil {
				return nil, err
			}
			continue
		}
		if err := copyValues(w, layerPrefix(i), out); err != nil {
			return nil, err
		}
		for _, ad := range w.Layout.Adapters() {
			at, bt, mt := ad.Slots()
			l := LoRA{R: ad.R}
			var err error
			if l.A, err = backend.DownloadFloats(w.Tensors[at]); err != nil {
				return nil, err
			}
			if l.B, err = backend.DownloadFloats(w.Tensors[bt]); err != nil {
				return nil, err
			}
			if mt >= 0 {
				if l.Magnitude, err = backend.DownloadFloats(w.Tensors[mt]); err != nil {
					return nil, err
				}
			}
			out[layerPrefix(i)+ad.Linear] = l
		}
		if err := tunedValues(w, layerPrefix(i), out); err != nil {
			return nil, err
		}
		for _, s := range w.Layout.Shifts() {
			l := out[layerPrefix(i)+s.Linear]
			var err error
			if l.Shift, err = backend.DownloadFloats(w.Tensors[s.Slot()]); err != nil {
				return nil, err
			}
			out[layerPrefix(i)+s.Linear] = l
		}
	}
	return out, nil
}

// SharePrograms tells whether the same compiled programs serve a and b: their ranks, scaling, dropout and linears are equal.
func (a Adapters) SharePrograms(b Adapters) bool {
	return slices.EqualFunc(a, b, func(x, y *nn.Weights) bool { return x.Layout.Key() == y.Layout.Key() })
}

// RowNorms returns the norms [Out] of the rows of the weights at these paths, as the programs see them.
func (m *CausalLM) RowNorms(paths []string) (map[string][]float32, error) {
	wanted, norms := map[string]bool{}, map[string][]float32{}
	for _, p := range paths {
		wanted[p] = true
	}
	for i := range m.run.Layers {
		var squares map[string][]float32
		for _, lin := range m.arch.tensors().Linears() {
			path := layerPrefix(i) + lin.Name
			if !wanted[path] {
				continue
			}
			if squares == nil {
				var err error
				if squares, err = m.run.RowSquares(i); err != nil {
					return nil, err
				}
			}
			n := make([]float32, lin.Out)
			for j, s := range squares[lin.Name] {
				n[j] = float32(math.Sqrt(float64(s)))
			}
			norms[path] = n
		}
	}
	for _, p := range paths {
		if norms[p] == nil {
			return nil, fmt.Errorf("the model's layers have no linear %q", p)
		}
	}
	return norms, nil
}
