package nn

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// Encoder is what the embeddings of virtual tokens, or the prefixes of all layers side by side, are computed from where they are
// no parameters themselves: an MLP on trained embeddings [tokens, Sizes[0]], whose linears put out the other Sizes.
type Encoder struct {
	Name  string // of the linears, in torch: "transform", of which "transform.0" is the first and "transform.2" the second
	Sizes []int
	ReLU  bool // between the linears, else tanh
}

// Tensors are the names and shapes of an encoder's parameters: the embeddings, then weight [out, in] and bias of each linear.
func (e Encoder) Tensors(tokens int) (names []string, dims [][]int) {
	names, dims = []string{"embedding.weight"}, [][]int{{tokens, e.Sizes[0]}}
	for i, in := range e.Sizes[:len(e.Sizes)-1] {
		out := e.Sizes[i+1]
		names = append(names, fmt.Sprintf("%s.%d.weight", e.Name, 2*i), fmt.Sprintf("%s.%d.bias", e.Name, 2*i))
		dims = append(dims, []int{out, in}, []int{out})
	}
	return names, dims
}

// Encode is the function of an encoder's tensors: [tokens, out].
func (e Encoder) Encode(in []*Node) *Node {
	x := in[0]
	for i := 1; i < len(in); i += 2 {
		if i > 1 && e.ReLU {
			x = Max(x, ZerosLike(x))
		} else if i > 1 {
			x = Tanh(x)
		}
		x = Add(Dense(x, in[i]), ExpandLeftToRank(in[i+1], 2))
	}
	return x
}

// Encoder adds an encoder's tensors as float32, trainable.
func (b *LayoutBuilder) Encoder(tokens int, e Encoder) {
	names, dims := e.Tensors(tokens)
	for i, name := range names {
		slot := b.slot(Slot{
			Shape: shapes.Make(dtypes.Float32, dims[i]...), Parts: []Part{{"prompt_encoder." + name, dims[i][0]}},
			Trainable: true, Decay: len(dims[i]) == 2, Embedding: i == 0,
		})
		b.l.encoding = append(b.l.encoding, slot)
	}
	b.l.encoder = e
}

// Encoder is the layout's, with the slots of its tensors; nil slots if it has none.
func (l *Layout) Encoder() (e Encoder, slots []int) { return l.encoder, l.encoding }
