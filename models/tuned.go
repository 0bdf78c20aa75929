package models

import (
	"fmt"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/nn"
)

// Tuned is an adapter on a linear that is no LoRA. Package peft makes them, one kind for each of PEFT's tuners.
type Tuned struct {
	Tuner   nn.Tuner // what it makes of the linear
	Dropout float64
	Tensors []TunedTensor
	// Merge puts the adapter into the linear, Unmerge takes it out again.
	Merge, Unmerge LinearChange
}

// TunedTensor is one tensor of a [Tuned].
type TunedTensor struct {
	Name   string // below the linear
	Shape  []int
	Values []float32 // row-major
	// Frozen tensors are not trained. Adapters whose frozen tensors are one slice share it on the device.
	Frozen bool
}

// LinearChange changes the weight [Out, In] and the bias [Out] of a linear in place. A nil Bias leaves that alone.
type LinearChange struct {
	Weight func(w []float32)
	Bias   func(b []float32)
}

// changesWeight tells whether the adapter makes another weight of the linear's.
func (l LoRA) changesWeight() bool { return l.R > 0 || l.Tuned != nil }

// check checks the values against the shapes.
func (t *Tuned) check(path string) error {
	for _, n := range t.Tensors {
		size := 1
		for _, d := range n.Shape {
			size *= d
		}
		if len(n.Values) != size || size == 0 {
			return fmt.Errorf("adapter on %q: %s has %d values, want %v", path, n.Name, len(n.Values), n.Shape)
		}
	}
	return nil
}

// sharedTensors are frozen tensors on the device, by where their values begin.
type sharedTensors map[*float32]*tensors.Tensor

// uploadTuned appends the tensors of an adapter.
func (m *CausalLM) uploadTuned(w *nn.Weights, t *Tuned, shared sharedTensors) error {
	for _, n := range t.Tensors {
		if on := shared[&n.Values[0]]; n.Frozen && on != nil {
			w.Tensors = append(w.Tensors, on)
			continue
		}
		on, err := backend.UploadValues(m.run.Device, n.Values, n.Shape...)
		if err != nil {
			return err
		}
		if w.Tensors = append(w.Tensors, on); n.Frozen {
			shared[&n.Values[0]] = on
		}
	}
	return nil
}

// tunedLayout adds an adapter to a layout.
func (t *Tuned) tunedLayout(b *nn.LayoutBuilder, lin nn.Linear) {
	var all []nn.TunerTensor
	for _, n := range t.Tensors {
		all = append(all, nn.TunerTensor{Name: n.Name, Dims: n.Shape, Frozen: n.Frozen})
	}
	b.Tuned(lin, t.Tuner, t.Dropout, all)
}

// tunedValues downloads the trained tensors of a layer's adapters that are no LoRAs.
func tunedValues(w *nn.Weights, prefix string, out map[string]LoRA) error {
	for linear, slots := range w.Layout.TunedSlots() {
		t := &Tuned{}
		for _, i := range slots {
			s := w.Layout.Slots[i]
			n := TunedTensor{Name: s.Parts[0].Name[len(linear)+1:], Shape: s.Shape.Dimensions, Frozen: !s.Trainable}
			if s.Trainable {
				var err error
				if n.Values, err = backend.DownloadFloats(w.Tensors[i]); err != nil {
					return err
				}
			}
			t.Tensors = append(t.Tensors, n)
		}
		l := out[prefix+linear]
		l.Tuned = t
		out[prefix+linear] = l
	}
	return nil
}
