package nn

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/draw"
)

// Tuner is what an adapter that is no LoRA makes of its linear; package peft has PEFT's. Linears that have one take the plain
// form, in which autodiff finds the gradients.
type Tuner interface {
	// Key tells tuners apart that compute differently from tensors of the same shapes.
	Key() string
	// Apply is what the linear with its adapter puts out, [B, S, Out]. It may panic, as all that builds graphs.
	Apply(o Operands) *Node
}

// Operands are what a [Tuner] computes with.
type Operands struct {
	X       *Node               // [B, S, In] in the compute dtype
	Tensors []*Node             // the adapter's, float32, in their order
	Product func(x *Node) *Node // x Wᵀ [B, S, Out] for x of X's shape and dtype; that of X itself is shared with linears beside it
	Bias    *Node               // [Out], or nil
	Dropped func() *Node        // X after the adapter's dropout, while training
	// Draws are uniform uint32 [B, n], n for each row of the batch; those of different names are independent. It is nil but while
	// training with dropout.
	Draws func(name string, n int) *Node
}

// Plain is x Wᵀ + b.
func (o Operands) Plain(x *Node) *Node { return o.WithBias(o.Product(x)) }

// WithBias is y + b.
func (o Operands) WithBias(y *Node) *Node {
	if o.Bias == nil {
		return y
	}
	return addBias(y, o.Bias)
}

// TunerTensor is one of the tensors of an adapter that is no LoRA, float32.
type TunerTensor struct {
	Name   string // below the linear: "hada_w1_a"
	Dims   []int
	Frozen bool // not trained
}

// tuned is an adapter that is no LoRA on one linear.
type tuned struct {
	linear  string
	tuner   Tuner
	dropout float64
	slots   []int
}

// Tuned adds the tensors of an adapter that is no LoRA.
func (b *LayoutBuilder) Tuned(l Linear, t Tuner, dropout float64, tensors []TunerTensor) {
	a := &tuned{linear: l.Name, tuner: t, dropout: dropout}
	for _, n := range tensors {
		s := Slot{Shape: shapes.Make(dtypes.Float32, n.Dims...), Parts: []Part{{l.Name + "." + n.Name, n.Dims[0]}}, Trainable: !n.Frozen, Decay: true}
		a.slots = append(a.slots, b.slot(s))
	}
	b.l.tuned = append(b.l.tuned, a)
}

// key is what programs depend on beyond the slots.
func (a *tuned) key() string { return fmt.Sprint(a.linear, a.tuner.Key(), a.dropout, a.slots) }

// TunedSlots are where the tensors of the adapters that are no LoRAs are, by the names of their linears.
func (l *Layout) TunedSlots() map[string][]int {
	all := map[string][]int{}
	for _, a := range l.tuned {
		all[a.linear] = a.slots
	}
	return all
}

// boundTuned is such an adapter with the nodes of its tensors.
type boundTuned struct {
	*tuned
	nodes     []*Node
	trainable []bool
}

func (s store) bindTuned(a *tuned) boundTuned {
	b := boundTuned{tuned: a}
	for _, i := range a.slots {
		b.nodes, b.trainable = append(b.nodes, s.nodes[i]), append(b.trainable, s.layout.Slots[i].Trainable)
	}
	return b
}

// hasTuned tells whether one of the linears has an adapter that is no LoRA.
func (l *Layer) hasTuned(linears []Linear) bool {
	return slices.ContainsFunc(linears, func(lin Linear) bool { _, ok := l.tuned[lin.Name]; return ok })
}

// trainedOf are the tensors of the linears' adapters that gradients are wanted of.
func (l *Layer) trainedOf(linears []Linear) (nodes []*Node) {
	for _, lin := range linears {
		a := l.tuned[lin.Name]
		for i, n := range a.nodes {
			if a.trainable[i] {
				nodes = append(nodes, n)
			}
		}
	}
	return nodes
}

// applyTuned is what linears side by side with their adapters make of x [B, S, In]; w [Σ Out, In], bias [Σ Out] or nil.
func (l *Layer) applyTuned(x, w, bias *Node, linears []Linear, is func(*Node) *Node) *Node {
	var shared *Node // x Wᵀ of all
	var parts []*Node
	at := 0
	for _, lin := range linears {
		rows := AxisRange(at, at+lin.Out)
		at += lin.Out
		o := Operands{X: x, Product: func(z *Node) *Node {
			if z != x {
				return Dense(z, SliceAxis(w, 0, rows))
			}
			if shared == nil {
				shared = Dense(x, w)
			}
			return SliceAxis(shared, -1, rows)
		}}
		if bias != nil {
			o.Bias = SliceAxis(bias, 0, rows)
		}
		a, ok := l.tuned[lin.Name]
		if !ok {
			parts = append(parts, o.Plain(x))
			continue
		}
		for _, n := range a.nodes {
			o.Tensors = append(o.Tensors, is(n))
		}
		if l.batch.RowKeys != nil {
			o.Draws = func(what string, n int) *Node { return draw.Columns(l.rowKeys(lin.Name+" "+what), n) }
		}
		o.Dropped = func() *Node { return l.Drop(x, lin.Name, a.dropout) }
		parts = append(parts, a.tuner.Apply(o))
	}
	return Concatenate(parts, -1)
}
