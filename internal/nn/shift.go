package nn

import (
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// OutputShift is a trained vector [Out] that is added to what a linear puts out, Scale times: the bias of a LoRA's B, or the change
// of the linear's own bias.
type OutputShift struct {
	Linear string
	Scale  float64
	slot   int
}

// Slot is where the vector is.
func (s *OutputShift) Slot() int { return s.slot }

// Shift adds the vector of a shift as float32, trainable without weight decay.
func (b *LayoutBuilder) Shift(l Linear, scale float64) {
	slot := b.slot(Slot{Shape: shapes.Make(dtypes.Float32, l.Out), Parts: []Part{{l.Name + ".shift", l.Out}}, Trainable: true})
	b.l.shifts = append(b.l.shifts, &OutputShift{l.Name, scale, slot})
}

// Shifts are the layout's, in the order in which they were added.
func (l *Layout) Shifts() []*OutputShift { return l.shifts }

// boundShift is a shift with the node of its vector.
type boundShift struct {
	*OutputShift
	vector *Node
}

// shifted is y [B, S, Σ Out] of linears side by side with their shifts; y itself where none has one.
func (l *Layer) shifted(y *Node, linears []Linear) *Node {
	g := y.Graph()
	var parts []*Node
	some := false
	for _, lin := range linears {
		s, ok := l.shifts[lin.Name]
		if !ok {
			parts = append(parts, Zeros(g, shapes.Make(dtypes.Float32, lin.Out)))
			continue
		}
		some, parts = true, append(parts, MulScalar(s.vector, s.Scale))
	}
	if !some {
		return y
	}
	out := addBias(y, Concatenate(parts, 0))
	if f := l.groups[y]; f != nil {
		l.groups[out] = f.bare()
	}
	l.tape.record([]*Node{out}, func(d []*Node) {
		sum := ReduceSum(ConvertDType(d[0], dtypes.Float32), 0, 1)
		at := 0
		for _, lin := range linears {
			if s, ok := l.shifts[lin.Name]; ok {
				l.tape.add(s.vector, MulScalar(SliceAxis(sum, 0, AxisRange(at, at+lin.Out)), s.Scale))
			}
			at += lin.Out
		}
		l.tape.add(y, d[0])
	})
	return out
}

// bare is the group for whoever takes in what it puts out when something has been done to that: nothing of its adapters can
// ride along.
func (f *fused) bare() *fused {
	b := *f
	b.adapters, b.at, b.n, b.pad, b.drop = nil, nil, 0, 0, nil
	return &b
}
