package layerwise

import (
	"fmt"
	"math"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/matmul"
	"github.com/loris-ml/loris/internal/nn"
)

// The names by which adapters at a model's ends go: of the embedding, a linear of vocab inputs and hidden outputs that sees
// one-hot vectors, and of the head.
const (
	EmbedName = "embed_tokens"
	HeadName  = "lm_head"
	NormName  = "norm"
)

// ends are adapters at the model's ends: the element behind those of the layers, if there is one. It may have a gain of its own
// for the final norm, and virtual tokens. At either end there is at
// most one of a LoRA, a copy of the whole weight, and, at the embedding, rows in place of some tokens'; where the head is tied,
// it has these rows, too.
type ends struct {
	w           *nn.Weights
	embed, head end
	tied        bool
	norm        int // slot of the final norm's gain, -1: the base's
	virtual     int // see virtual.go
	prompt      int // slot of their embeddings, -1: none
	encoder     nn.Encoder
	encoding    []int // slots of the encoder, see encoder.go; nil: none
}

// end is what adapters have at one end. Indices are those of slots, -1 for none.
type end struct {
	a, b    int
	scaling float64
	dropout float64
	full    int
	rows    int
	tokens  []int32 // of rows
}

// endsOf returns the adapters at the ends, nil if there are none.
func (m *Model) endsOf(adapters []*nn.Weights) *ends {
	if len(adapters) <= len(m.Layers) {
		return nil
	}
	e := &ends{w: adapters[len(m.Layers)], embed: end{a: -1, full: -1, rows: -1}, head: end{a: -1, full: -1, rows: -1}, tied: m.Head == nil, norm: -1, prompt: -1}
	e.virtual = e.w.Layout.Virtual()
	e.encoder, e.encoding = e.w.Layout.Encoder()
	for _, a := range e.w.Layout.Adapters() {
		at := &e.head
		if a.Linear == EmbedName {
			at = &e.embed
		}
		at.a, at.b, _ = a.Slots()
		at.scaling, at.dropout = a.Scaling, a.Dropout
	}
	for i, s := range e.w.Layout.Slots {
		switch s.Parts[0].Name {
		case EmbedName + ".weight":
			e.embed.full = i
		case HeadName + ".weight":
			e.head.full = i
		case NormName + ".weight":
			e.norm = i
		case nn.PromptName:
			e.prompt = i
		}
	}
	if e.w.Layout.TiedHead() {
		e.head.full = e.embed.full
	}
	if slot, tokens := e.w.Layout.Tokens(); tokens != nil {
		e.embed.rows, e.embed.tokens = slot, tokens
	}
	return e
}

// key is what graphs over the ends depend on.
func (e *ends) key() string {
	if e == nil {
		return ""
	}
	return fmt.Sprint(e.w.Layout.Key(), e.embed.tokens)
}

// trainsNorm tells whether the final norm's gain is trained.
func (e *ends) trainsNorm() bool { return e != nil && e.norm >= 0 }

// drops tells whether dropout lies before the head's adapter.
func (e *ends) drops() bool { return e != nil && e.head.a >= 0 && e.head.dropout > 0 }

// headTensors are the inputs of programs with the head: its weight, and of adapters on it A and B, or the rows of tokens.
func (m *Model) headTensors(e *ends) []*tensors.Tensor {
	in := []*tensors.Tensor{m.head()}
	switch {
	case e == nil:
	case e.head.full >= 0:
		in[0] = e.w.Tensors[e.head.full]
	case e.head.a >= 0:
		in = append(in, e.w.Tensors[e.head.a], e.w.Tensors[e.head.b])
	}
	if e.tiedRows() {
		in = append(in, e.w.Tensors[e.embed.rows])
	}
	return in
}

// tiedRows tells whether the head has the rows of tokens that the embedding has.
func (e *ends) tiedRows() bool { return e != nil && e.tied && e.embed.rows >= 0 && e.head.full < 0 }

// side is a low-rank part of the head: logits += scaling · (x Aᵀ) Bᵀ, A [r, hidden], B [vocab, r].
type side struct {
	a, b    *Node
	scaling float64
	dropped bool // x is dropped before it
	learnsB bool
	dA, dB  *Node // gradients in float32, summed over chunks
	inRows  bool  // a is the difference of tokens' rows
}

// headParts returns the head's weight in the compute dtype and what adapters add, for the nodes of headTensors.
func (m *Model) headParts(e *ends, in []*Node) (w *Node, sides []*side) {
	w = ConvertDType(in[0], m.Shape.Compute)
	rest := in[1:]
	if e != nil && e.head.a >= 0 {
		sides = append(sides, &side{a: rest[0], b: rest[1], scaling: e.head.scaling, dropped: e.head.dropout > 0, learnsB: true})
		rest = rest[2:]
	}
	if e.tiedRows() { // rows of tokens in place of the weight's are a low-rank change of it
		g, n := w.Graph(), len(e.embed.tokens)
		ids := Const(g, column(e.embed.tokens))
		old := ConvertDType(Gather(in[0], ids), dtypes.Float32)
		hot := ConvertDType(Equal(Iota(g, shapes.Make(dtypes.Int32, m.Vocab, n), 0), Reshape(ids, 1, n)), dtypes.Float32)
		sides = append(sides, &side{a: Sub(rest[0], old), b: hot, scaling: 1, inRows: true})
	}
	return w, sides
}

func column(ids []int32) [][]int32 {
	out := make([][]int32, len(ids))
	for i, id := range ids {
		out[i] = []int32{id}
	}
	return out
}

// headLogits are x Wᵀ [n, vocab] of x [n, hidden] and what the sides add, of dropped where they see that.
func headLogits(x, dropped, w *Node, sides []*side) *Node {
	y := nn.Dense(x, w)
	for _, s := range sides {
		y = Add(y, nn.Dense(MulScalar(nn.Dense(s.input(x, dropped), s.narrow(s.a, x)), s.scaling), s.narrow(s.b, x)))
	}
	return y
}

func (s *side) narrow(n, x *Node) *Node { return ConvertDType(n, x.DType()) }

func (s *side) input(x, dropped *Node) *Node {
	if s.dropped && dropped != nil {
		return dropped
	}
	return x
}

// backward adds the side's gradients for d [n, vocab] at the logits and returns the one at its input.
func (s *side) backward(x, d *Node) *Node {
	p := MulScalar(matmul.Contract(d, 1, s.narrow(s.b, x), 0), s.scaling) // [n, r]
	s.dA = sum(s.dA, matmul.Wide(p, []int{0}, nil, x, []int{0}, nil))
	if s.learnsB {
		low := MulScalar(nn.Dense(x, s.narrow(s.a, x)), s.scaling)
		s.dB = sum(s.dB, matmul.Wide(d, []int{0}, nil, low, []int{0}, nil))
	}
	return matmul.Contract(p, 1, s.narrow(s.a, x), 0)
}

// headGradients are the gradients at the head's slots in order of the sides: A and B, or the tokens' rows.
func headGradients(sides []*side) (out []*Node) {
	for _, s := range sides {
		if out = append(out, s.dA); s.learnsB {
			out = append(out, s.dB)
		}
	}
	return out
}

// embedWith is embed with adapters.
func (m *Model) embedWith(e *ends, ids []int32, rows, length int) (*tensors.Tensor, error) {
	if e.virtualTokens() > 0 {
		return m.embedVirtual(e, ids, rows, length)
	}
	if e == nil || e.embed.a < 0 && e.embed.full < 0 && e.embed.rows < 0 {
		return m.embed(ids, rows, length)
	}
	at, err := backend.UploadValues(m.Device, e.places(ids), rows, length, 1)
	if err != nil {
		return nil, err
	}
	defer at.FinalizeAll()
	if e.embed.full >= 0 {
		return m.one("embed", func(in []*Node) *Node { return m.embedded([]*Node{Gather(in[0], in[1])}) }, e.w.Tensors[e.embed.full], at)
	}
	raw, err := m.rawRows(ids, rows, length)
	if err != nil {
		return nil, err
	}
	defer raw.FinalizeAll()
	if e.embed.rows >= 0 {
		return m.named("embed_tokens", e.key(), func(in []*Node) *Node {
			n := len(e.embed.tokens)
			own := ConvertDType(Gather(withZeroRow(in[2]), in[1]), in[0].DType())
			replaced := BroadcastToShape(LessThan(in[1], Const(in[1].Graph(), int32(n))), shapes.Make(dtypes.Bool, in[0].Shape().Dimensions...))
			return m.embedded([]*Node{Where(replaced, own, in[0])})
		}, raw, at, e.w.Tensors[e.embed.rows])
	}
	return m.named("embed_lora", e.key(), func(in []*Node) *Node {
		x := m.embedded(in[:1])
		low := Gather(TransposeAllDims(in[2], 1, 0), in[1]) // [rows, length, r]
		add := MulScalar(nn.Dense(low, in[3]), e.embed.scaling*m.embedScale())
		return Add(x, ConvertDType(add, x.DType()))
	}, raw, at, e.w.Tensors[e.embed.a], e.w.Tensors[e.embed.b])
}

func (m *Model) embedScale() float64 {
	if m.Embed.Scale == 0 {
		return 1
	}
	return m.Embed.Scale
}

// withZeroRow is x [n, k] with a row of zeros behind.
func withZeroRow(x *Node) *Node {
	return Concatenate([]*Node{x, Zeros(x.Graph(), shapes.Make(x.DType(), 1, x.Shape().Dim(1)))}, 0)
}

// places are the ids, or with rows of tokens the index of each id's row, len(tokens) for those that have none.
func (e *ends) places(ids []int32) []int32 {
	if e.embed.rows < 0 {
		return ids
	}
	out := make([]int32, len(ids))
	for i, id := range ids {
		if out[i] = int32(slices.Index(e.embed.tokens, id)); out[i] < 0 {
			out[i] = int32(len(e.embed.tokens))
		}
	}
	return out
}

// rawRows are the embedding's rows [rows, length, hidden] as they are stored.
func (m *Model) rawRows(ids []int32, rows, length int) (*tensors.Tensor, error) {
	if m.Embed.Rows == nil {
		at, err := backend.UploadValues(m.Device, ids, rows, length, 1)
		if err != nil {
			return nil, err
		}
		defer at.FinalizeAll()
		return m.one("embed_rows", func(in []*Node) *Node { return Gather(in[0], in[1]) }, m.Embed.Table, at)
	}
	return m.Device.Upload(shapes.Make(m.Embed.DType, rows, length, m.Shape.Hidden), m.gathered(ids))
}

// adapterGradients returns the gradients of the adapters at the ends in the order of what they train.
func (m *Model) adapterGradients(e *ends, p *pass) ([]*tensors.Tensor, error) {
	bySlot := map[int]*tensors.Tensor{}
	rest := p.ends
	if e.norm >= 0 {
		bySlot[e.norm], rest = rest[0], rest[1:]
	}
	var shared *tensors.Tensor // of the head, where it has what the embedding has
	if e.head.full >= 0 {
		g := rest[0]
		if rest = rest[1:]; e.head.full == e.embed.full {
			shared = g
		} else {
			bySlot[e.head.full] = g
		}
	}
	if e.head.a >= 0 {
		bySlot[e.head.a], bySlot[e.head.b], rest = rest[0], rest[1], rest[2:]
	}
	if e.tiedRows() {
		shared = rest[0]
	}
	if e.trainsEmbedding() {
		grads, err := m.embeddingGradients(e, p, shared)
		if err != nil {
			return nil, err // what there is stays the pass's to free
		}
		for i, slot := range e.embedSlots() {
			bySlot[slot] = grads[i]
		}
	}
	var out []*tensors.Tensor
	for _, slot := range e.w.Layout.Trainable() {
		out = append(out, bySlot[slot])
	}
	p.ends = nil
	return out, backend.Free(shared)
}

func (e *ends) trainsEmbedding() bool {
	return e != nil && (e.embed.a >= 0 || e.embed.full >= 0 || e.embed.rows >= 0 || e.prompt >= 0)
}

// embedSlots are the slots that embeddingGradients has gradients for.
func (e *ends) embedSlots() []int {
	switch {
	case e.prompt >= 0:
		return []int{e.prompt}
	case e.embed.full >= 0:
		return []int{e.embed.full}
	case e.embed.rows >= 0:
		return []int{e.embed.rows}
	}
	return []int{e.embed.a, e.embed.b}
}

// embeddingGradients are those at the embedding's adapters for p.dx, the gradient at what it puts out. head is what a head
// that has the same rows adds to their gradient, or nil.
func (m *Model) embeddingGradients(e *ends, p *pass, head *tensors.Tensor) ([]*tensors.Tensor, error) {
	if e.prompt >= 0 {
		return m.promptGradient(e, p)
	}
	at, err := backend.UploadValues(m.Device, e.places(p.batch.IDs), len(p.batch.IDs), 1)
	if err != nil {
		return nil, err
	}
	defer at.FinalizeAll()
	in := []*tensors.Tensor{p.dx, at}
	switch {
	case e.embed.a >= 0:
		in = append(in, e.w.Tensors[e.embed.a], e.w.Tensors[e.embed.b])
	case head != nil:
		in = append(in, head)
	}
	return m.programs.get(m.Device, "embed_backward", "adapters "+e.key(), func(in []*Node) []*Node {
		dx := in[0]
		if dx.Rank() == 2 { // with room behind
			dx = SliceAxis(dx, 1, AxisRange(0, m.Shape.Hidden))
		}
		dx = MulScalar(ConvertDType(Reshape(dx, -1, m.Shape.Hidden), dtypes.Float32), m.embedScale())
		g := dx.Graph()
		scattered := func(rows int, x *Node) *Node { // [rows, columns of x]
			x = m.withoutPadding(x, in[1], e.places)
			return ScatterSum(Zeros(g, shapes.Make(dtypes.Float32, rows, x.Shape().Dim(1))), in[1], x, false, false)
		}
		switch {
		case e.embed.full >= 0:
			table := scattered(m.Vocab, dx)
			if len(in) > 2 {
				table = Add(table, in[2])
			}
			return []*Node{table}
		case e.embed.rows >= 0:
			n := len(e.embed.tokens)
			rows := scattered(n+1, dx)
			rows = SliceAxis(rows, 0, AxisRange(0, n))
			if len(in) > 2 {
				rows = Add(rows, in[2])
			}
			return []*Node{rows}
		}
		dx = MulScalar(dx, e.embed.scaling)
		low := Gather(TransposeAllDims(in[2], 1, 0), in[1]) // [tokens, r]
		dB := matmul.Wide(dx, []int{0}, nil, low, []int{0}, nil)
		dLow := matmul.Contract(dx, 1, in[3], 0)
		return []*Node{TransposeAllDims(scattered(m.Vocab, dLow), 1, 0), dB}
	}).call(in...)
}

// headLayer is the number by which random streams know the head among the layers.
const headLayer = math.MaxUint32
