package nn

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/quant"
)

// Linear is y = x Wᵀ + b, named as in the checkpoint below the layer ("self_attn.q_proj"); W is [Out, In].
type Linear struct {
	Name    string
	In, Out int
	Bias    bool
}

// Norm is a normalization with one gain per feature.
type Norm struct {
	Name string
	Size int
}

// Block lists the tensors of one decoder layer. The linears of a group share their input: they are stored and computed
// as one, so that one matrix product, one read of the input and one dequantization serve them all.
type Block struct {
	Norms  []Norm
	Groups [][]Linear
}

// Linears returns the linears of all groups in order.
func (b Block) Linears() []Linear {
	var all []Linear
	for _, g := range b.Groups {
		all = append(all, g...)
	}
	return all
}

// Part is the range of a slot's rows that one tensor of the checkpoint fills.
type Part struct {
	Name string // as in the checkpoint, below the layer: "self_attn.q_proj.weight"
	Rows int
}

// Slot is one tensor of a layer on the device, and one input of the programs over that layer.
type Slot struct {
	Shape     shapes.Shape
	Parts     []Part // what of the checkpoint it holds; none for quantized data
	Trainable bool
	Decay     bool // weight decay applies when it is trained
	Embedding bool // PEFT trains it as a torch.nn.Embedding, whose moments transformers' Trainer keeps in float32
}

// Layout says which tensors a layer has, in which form and order. Layers of one layout share their programs.
type Layout struct {
	Slots    []Slot
	norms    map[string]int // name → slot
	groups   []*group
	adapter  []*Adapter
	shifts   []*OutputShift
	tuned    []*tuned
	tokens   []int32 // of rows in place of the embedding's, in slot rows
	rows     int
	prefix   int // one more than the slot of keys and values, 0: none
	virtual  int // see Virtual
	encoder  Encoder
	encoding []int // slots of the encoder
	tied     bool  // see TieHead
	kind     string
	key      string
}

// group is how a group of linears is stored.
type group struct {
	linears []Linear
	weight  int // slot of the dense weight [Σ Out, In]; -1: packed
	bias    int // slot of the biases [Σ Out]; -1: none
	packed  *packed
}

// packed is a group in four bits.
type packed struct {
	data  quant.Layout // how the arrays are to be read
	slots []int        // the arrays, in the order of quant.Packed.Inputs
}

func (g *group) out() int { return width(g.linears) }

// width is the number of outputs of all linears.
func width(linears []Linear) (n int) {
	for _, l := range linears {
		n += l.Out
	}
	return n
}

// Adapter is a LoRA on one linear: y += Scaling · B(A(dropout(x))), A [R, In] and B [Out, R] (arXiv:2106.09685).
type Adapter struct {
	Linear  string
	R       int
	Scaling float64
	Dropout float64
	// ScaleInput makes the scaling an input of the programs, which adapters of other scalings then share; Scaling is not
	// used.
	ScaleInput bool
	// DoRA gives it a magnitude [Out] beside A and B: see dora.go.
	DoRA bool
	// Rows, if not 0, is for how many rows of a batch there are factors [Rows, R] on what A puts out, an input of the programs:
	// several adapters lie side by side in A and B, of which each row sees its own. Batches may have fewer rows.
	Rows              int
	a, b, scale       int // slots; scale is 0 without ScaleInput
	magnitude, square int // slots, 0 without DoRA
	rows              int // slot, 0 without Rows
}

// Weights are one layer's tensors on a device, in the order of the layout's slots.
type Weights struct {
	Layout  *Layout
	Tensors []*tensors.Tensor
}

// LayoutBuilder assembles a layout slot by slot.
type LayoutBuilder struct{ l *Layout }

// NewLayout starts an empty layout.
func NewLayout() *LayoutBuilder { return &LayoutBuilder{&Layout{norms: map[string]int{}}} }

func (b *LayoutBuilder) slot(s Slot) int {
	b.l.Slots = append(b.l.Slots, s)
	return len(b.l.Slots) - 1
}

// Kind names what the layer computes differently from others of its model, as config.json's layer_types does; see
// [Layer.Kind].
func (b *LayoutBuilder) Kind(kind string) { b.l.kind = kind }

// Norm adds a gain [size] in dtype.
func (b *LayoutBuilder) Norm(n Norm, dtype dtypes.DType, trainable bool) {
	b.l.norms[n.Name] = b.slot(Slot{
		Shape: shapes.Make(dtype, n.Size), Parts: []Part{{n.Name + ".weight", n.Size}}, Trainable: trainable,
	})
}

// Dense adds a group of linears as one weight [Σ Out, In] in dtype, with the biases if any member has one.
func (b *LayoutBuilder) Dense(linears []Linear, dtype dtypes.DType, trainable bool) {
	g := &group{linears: linears}
	g.weight = b.slot(Slot{
		Shape: shapes.Make(dtype, g.out(), linears[0].In), Parts: parts(linears, ".weight"), Trainable: trainable, Decay: true,
	})
	b.bias(g, dtype, trainable)
	b.l.groups = append(b.l.groups, g)
}

// Packed adds a group of linears in four bits, which lie in arrays of the given shapes; biases are kept in dtype.
func (b *LayoutBuilder) Packed(linears []Linear, data quant.Layout, arrays []shapes.Shape, dtype dtypes.DType) {
	g := &group{linears: linears, weight: -1, packed: &packed{data: data}}
	for _, s := range arrays {
		g.packed.slots = append(g.packed.slots, b.slot(Slot{Shape: s}))
	}
	b.bias(g, dtype, false)
	b.l.groups = append(b.l.groups, g)
}

func (b *LayoutBuilder) bias(g *group, dtype dtypes.DType, trainable bool) {
	g.bias = -1
	for _, l := range g.linears {
		if l.Bias {
			g.bias = b.slot(Slot{Shape: shapes.Make(dtype, g.out()), Parts: parts(g.linears, ".bias"), Trainable: trainable})
			return
		}
	}
}

// Adapter adds the A and B of a LoRA as float32, trainable; then its scaling if that is an input; then, of a DoRA, the
// magnitude [Out], trainable, and the squared norms of the weight's rows [Out].
func (b *LayoutBuilder) Adapter(l Linear, a Adapter) {
	a.Linear = l.Name
	a.a = b.slot(Slot{
		Shape: shapes.Make(dtypes.Float32, a.R, l.In), Parts: []Part{{l.Name + ".lora_A.weight", a.R}}, Trainable: true, Decay: true,
	})
	a.b = b.slot(Slot{
		Shape: shapes.Make(dtypes.Float32, l.Out, a.R), Parts: []Part{{l.Name + ".lora_B.weight", l.Out}}, Trainable: true, Decay: true,
	})
	if a.ScaleInput {
		a.Scaling = 0
		a.scale = b.slot(Slot{Shape: shapes.Make(dtypes.Float32)})
	}
	if a.Rows > 0 {
		a.rows = b.slot(Slot{Shape: shapes.Make(dtypes.Float32, a.Rows, a.R)})
	}
	if a.DoRA {
		a.magnitude = b.slot(Slot{
			Shape: shapes.Make(dtypes.Float32, l.Out), Parts: []Part{{l.Name + ".lora_magnitude_vector", l.Out}}, Trainable: true, Decay: true,
		})
		a.square = b.slot(Slot{Shape: shapes.Make(dtypes.Float32, l.Out)})
	}
	b.l.adapter = append(b.l.adapter, &a)
}

// Tokens adds rows [n, size] in place of the embedding's rows of n tokens, float32, trainable.
func (b *LayoutBuilder) Tokens(tokens []int32, size int) {
	b.l.tokens = tokens
	b.l.rows = b.slot(Slot{Shape: shapes.Make(dtypes.Float32, len(tokens), size), Parts: []Part{{"token_adapter", len(tokens)}}, Trainable: true, Decay: true})
}

// TieHead says that the head is the layout's copy of the embedding, too.
func (b *LayoutBuilder) TieHead() { b.l.tied = true }

// TiedHead tells whether TieHead was called.
func (l *Layout) TiedHead() bool { return l.tied }

// Tokens are the tokens that have rows of their own, and the slot of these; nil if none have.
func (l *Layout) Tokens() (slot int, tokens []int32) { return l.rows, l.tokens }

// Build finishes the layout.
func (b *LayoutBuilder) Build() *Layout {
	var k strings.Builder
	fmt.Fprintf(&k, "%s;", b.l.kind)
	for _, s := range b.l.Slots {
		fmt.Fprintf(&k, "%s %v%v;", s.Shape, s.Trainable, s.Parts)
	}
	for _, g := range b.l.groups {
		if g.packed != nil {
			fmt.Fprintf(&k, "%v;", g.packed.data)
		}
	}
	for _, a := range b.l.adapter {
		fmt.Fprintf(&k, "%v;", *a)
	}
	fmt.Fprintf(&k, "%v;%d%v%v;", b.l.tokens, b.l.virtual, b.l.tied, b.l.encoder)
	for _, s := range b.l.shifts {
		fmt.Fprintf(&k, "%v;", *s)
	}
	for _, a := range b.l.tuned {
		fmt.Fprintf(&k, "%s;", a.key())
	}
	b.l.key = k.String()
	return b.l
}

func parts(linears []Linear, suffix string) (p []Part) {
	for _, l := range linears {
		p = append(p, Part{l.Name + suffix, l.Out})
	}
	return p
}

// Slots are where A and B are, and the magnitude of a DoRA, else -1.
func (a *Adapter) Slots() (aSlot, bSlot, magnitude int) {
	if !a.DoRA {
		return a.a, a.b, -1
	}
	return a.a, a.b, a.magnitude
}

// Adapters are the layout's, in the order in which they were added.
func (l *Layout) Adapters() []*Adapter { return l.adapter }

// Kind is what the layout was given as such, "" if nothing.
func (l *Layout) Kind() string { return l.kind }

// Key is equal for layouts over which the same programs run.
func (l *Layout) Key() string { return l.key }

// Outputs is how many values all linears of the layer put out per token, dense or packed.
func (l *Layout) Outputs() (n int) {
	for _, g := range l.groups {
		n += g.out()
	}
	return n
}

// HasDropout reports whether any adapter drops inputs while training.
func (l *Layout) HasDropout() bool {
	for _, a := range l.adapter {
		if a.Dropout > 0 {
			return true
		}
	}
	return slices.ContainsFunc(l.tuned, func(a *tuned) bool { return a.dropout > 0 })
}

// Trainable returns the indices of the trainable slots.
func (l *Layout) Trainable() (slots []int) {
	for i, s := range l.Slots {
		if s.Trainable {
			slots = append(slots, i)
		}
	}
	return slots
}
