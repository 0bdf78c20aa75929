package models

import (
	"errors"
	"fmt"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/nn"
)

// RowAdapters are several adapters on a model's device, side by side, of which each row of a batch sees its own: one program
// for all. Package peft makes them.
type RowAdapters struct {
	m      *CausalLM
	rank   int // of all adapters together
	loaded Adapters
	layout map[int][]*nn.Layout // by the rows of the selection: of each layer
}

// NewRowAdapters uploads joined adapters, each linear with the ranks of all of them side by side in one order; all have one R,
// and Scaling 1.
func (m *CausalLM) NewRowAdapters(loras []LoRA) (*RowAdapters, error) {
	if len(loras) == 0 {
		return nil, errors.New("there are no adapters")
	}
	for _, l := range loras {
		if l.R != loras[0].R || l.Scaling != 1 || l.Magnitude != nil || l.Shift != nil || l.PadTo != 0 || l.Tuned != nil {
			return nil, fmt.Errorf("adapter on %q: rows of a batch choose among adapters of A and B alone, of one rank in all and without a scaling", l.Path)
		}
	}
	loaded, err := m.NewAdapters(loras)
	return &RowAdapters{m: m, rank: loras[0].R, loaded: loaded, layout: map[int][]*nn.Layout{}}, err
}

// Close frees the adapters. Selections from them are of no use then.
func (r *RowAdapters) Close() error {
	if r == nil {
		return nil
	}
	return r.loaded.Close()
}

// RowSelection is what rows of a batch see of [RowAdapters].
type RowSelection struct {
	Adapters Adapters // not to be closed
	weights  *nn.Weights
}

// Close frees what the selection has of its own.
func (s *RowSelection) Close() error { return backend.Free(s.weights.Tensors...) }

// Select returns adapters for a batch of which row i sees column j of the joined ranks factors[i][j] times; rows beyond are those
// of padding, and see nothing.
func (r *RowAdapters) Select(factors [][]float32) (*RowSelection, error) {
	rows := 1
	for rows < len(factors) { // as the decoder pads
		rows *= 2
	}
	flat := make([]float32, rows*r.rank)
	for i, f := range factors {
		if len(f) != r.rank {
			return nil, fmt.Errorf("row %d has %d factors, want %d", i, len(f), r.rank)
		}
		copy(flat[i*r.rank:], f)
	}
	mask, err := backend.UploadValues(r.m.run.Device, flat, rows, r.rank)
	if err != nil {
		return nil, err
	}
	s := &RowSelection{weights: &nn.Weights{}}
	s.weights.Tensors = append(s.weights.Tensors, mask)
	for i, layout := range r.layouts(rows) {
		w := &nn.Weights{Layout: layout}
		for k, t := range r.loaded[i].Tensors { // A and B in turn, and the factors behind each pair
			if w.Tensors = append(w.Tensors, t); k%2 == 1 {
				w.Tensors = append(w.Tensors, mask)
			}
		}
		s.Adapters = append(s.Adapters, w)
	}
	return s, nil
}

// layouts are those of the layers with factors for so many rows.
func (r *RowAdapters) layouts(rows int) []*nn.Layout {
	if got := r.layout[rows]; got != nil {
		return got
	}
	linears := map[string]nn.Linear{}
	for _, l := range r.m.arch.tensors().Linears() {
		linears[l.Name] = l
	}
	var all []*nn.Layout
	for _, w := range r.loaded {
		b := nn.NewLayout()
		for _, a := range w.Layout.Adapters() {
			b.Adapter(linears[a.Linear], nn.Adapter{R: a.R, Scaling: 1, Rows: rows})
		}
		all = append(all, b.Build())
	}
	r.layout[rows] = all
	return all
}
