package models

import (
	"fmt"
	"math"
	"slices"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/nn"
)

// VirtualPath is the path of virtual tokens among adapters: PEFT's name for what makes them.
const VirtualPath = "prompt_encoder"

// Virtual are virtual tokens, which every row begins with. Positions count from the first of them, labels and what comes out
// concern the tokens behind them. Either their embeddings are trained, which the first layer takes for those of tokens
// (arXiv:2104.08691), or their keys and values in every layer (arXiv:2101.00190). Rows of several documents cannot be trained.
type Virtual struct {
	Tokens     int
	Embeddings []float32 // [Tokens, hidden]; nil: Prefix
	// Prefix [Tokens, layers·2·KVHeads·HeadDim] are a token's keys in the first layer, its values there, its keys in the second,
	// and so on; keys as RoPE leaves them.
	Prefix []float32
	// Encoder, if not nil, is trained in their place, and they are what it puts out. It is not among what comes back from the
	// device.
	Encoder *VirtualEncoder
}

// VirtualEncoder is an MLP that embeddings, or keys and values, of virtual tokens come out of: x₀ = Embedding, x₁ = x₀·W₁ᵀ + b₁ and
// so on, with a tanh or ReLU before each linear but the first.
type VirtualEncoder struct {
	Name            string // of the linears in PEFT: "transform", "mlp_head"
	Sizes           []int  // features of the embeddings, and what each linear puts out
	ReLU            bool   // else tanh
	Embedding       []float32
	Weights, Biases [][]float32 // of each linear, [out, in] and [out]
}

// Output is what the encoder puts out, row after row.
func (e *VirtualEncoder) Output() (all []float32) {
	for row := range slices.Chunk(e.Embedding, e.Sizes[0]) {
		for i, w := range e.Weights {
			if i > 0 {
				row = e.activated(row)
			}
			row = affine(row, w, e.Biases[i])
		}
		all = append(all, row...)
	}
	return all
}

func (e *VirtualEncoder) activated(x []float32) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		if y[i] = max(v, 0); !e.ReLU {
			y[i] = float32(math.Tanh(float64(v)))
		}
	}
	return y
}

// affine is W x + b, summed in float64.
func affine(x, w, b []float32) []float32 {
	y := make([]float32, len(b))
	for i := range y {
		sum := float64(b[i])
		for j, v := range x {
			sum += float64(v) * float64(w[i*len(x)+j])
		}
		y[i] = float32(sum)
	}
	return y
}

func (e *VirtualEncoder) form() nn.Encoder {
	return nn.Encoder{Name: e.Name, Sizes: e.Sizes, ReLU: e.ReLU}
}

// parameters are the tensors in the order of nn.Encoder.Tensors.
func (e *VirtualEncoder) parameters() [][]float32 {
	all := [][]float32{e.Embedding}
	for i, w := range e.Weights {
		all = append(all, w, e.Biases[i])
	}
	return all
}

// check checks an encoder of so many tokens that puts out so many features.
func (e *VirtualEncoder) check(tokens, out int) error {
	if len(e.Sizes) < 2 || slices.Min(e.Sizes) <= 0 || e.Sizes[len(e.Sizes)-1] != out || len(e.Weights) != len(e.Sizes)-1 || len(e.Biases) != len(e.Weights) {
		return fmt.Errorf("virtual tokens: an encoder of sizes %v and %d linears, want one that puts out %d features", e.Sizes, len(e.Weights), out)
	}
	names, dims := e.form().Tensors(tokens)
	for i, values := range e.parameters() {
		if len(values) != size(dims[i]) {
			return fmt.Errorf("virtual tokens: the encoder's %s has %d values, want %v", names[i], len(values), dims[i])
		}
	}
	return nil
}

// PrefixWidth is the number of keys, and of values, that a token has in a layer: KVHeads·HeadDim.
func (m *CausalLM) PrefixWidth() int {
	s := m.arch.dims().shape
	return s.KVHeads * s.HeadDim
}

func (v *Virtual) check(m *CausalLM) error {
	d := m.arch.dims()
	switch prefix := v.Tokens * d.layers * 2 * m.PrefixWidth(); {
	case v.Tokens <= 0:
		return fmt.Errorf("%d virtual tokens, want one or more", v.Tokens)
	case (v.Embeddings == nil) == (v.Prefix == nil):
		return fmt.Errorf("virtual tokens have either embeddings or keys and values; got %d and %d values", len(v.Embeddings), len(v.Prefix))
	case v.Embeddings != nil && len(v.Embeddings) != v.Tokens*d.shape.Hidden:
		return fmt.Errorf("virtual tokens: %d values of embeddings, want [%d, %d]", len(v.Embeddings), v.Tokens, d.shape.Hidden)
	case v.Prefix != nil && len(v.Prefix) != prefix:
		return fmt.Errorf("virtual tokens: %d keys and values, want [%d, %d layers · 2 · %d]", len(v.Prefix), v.Tokens, d.layers, m.PrefixWidth())
	case v.Encoder != nil:
		return v.Encoder.check(v.Tokens, (len(v.Embeddings)+len(v.Prefix))/v.Tokens)
	}
	return nil
}

// addPrefix uploads the keys and values that virtual tokens have in layer i.
func (m *CausalLM) addPrefix(b *nn.LayoutBuilder, w *nn.Weights, i int, v *Virtual) error {
	if v == nil || v.Prefix == nil {
		return nil
	}
	width, all := 2*m.PrefixWidth(), len(v.Prefix)/v.Tokens
	var values []float32
	for t := range v.Tokens {
		values = append(values, v.Prefix[t*all+i*width:][:width]...)
	}
	b.Prefix(v.Tokens, width/2)
	return m.put(w, values, v.Tokens, width)
}

// addVirtual uploads the embeddings of virtual tokens and the encoder, and says how many tokens there are.
func (m *CausalLM) addVirtual(b *nn.LayoutBuilder, w *nn.Weights, v *Virtual) error {
	hidden := m.arch.dims().shape.Hidden
	b.Virtual(v.Tokens, hidden, v.Embeddings != nil)
	if v.Embeddings != nil {
		if err := m.put(w, v.Embeddings, v.Tokens, hidden); err != nil {
			return err
		}
	}
	if v.Encoder == nil {
		return nil
	}
	b.Encoder(v.Tokens, v.Encoder.form())
	_, dims := v.Encoder.form().Tensors(v.Tokens)
	for i, values := range v.Encoder.parameters() {
		if err := m.put(w, values, dims[i]...); err != nil {
			return err
		}
	}
	return nil
}

// virtual downloads the virtual tokens, nil if there are none.
func (a Adapters) virtual() (*Virtual, error) {
	if len(a) == 0 || a[len(a)-1].Layout.Virtual() == 0 {
		return nil, nil
	}
	ends, layers := a[len(a)-1], a[:len(a)-1]
	v := &Virtual{Tokens: ends.Layout.Virtual()}
	for i, s := range ends.Layout.Slots {
		if s.Parts[0].Name == nn.PromptName {
			values, err := backend.DownloadFloats(ends.Tensors[i])
			v.Embeddings = values
			return v, err
		}
	}
	byLayer := make([][]float32, len(layers))
	for i, w := range layers {
		var err error
		if byLayer[i], err = backend.DownloadFloats(w.Tensors[w.Layout.Prefix()]); err != nil {
			return nil, err
		}
	}
	for t := range v.Tokens {
		for _, values := range byLayer {
			n := len(values) / v.Tokens
			v.Prefix = append(v.Prefix, values[t*n:(t+1)*n]...)
		}
	}
	return v, nil
}

// TokenEmbeddings returns what the embedding looks up for ids, [len(ids), hidden], as PEFT's virtual tokens may start from it:
// scaled where the embedding itself scales.
func (m *CausalLM) TokenEmbeddings(ids []int) ([]float32, error) {
	all, err := m.Tensor(EmbeddingPath + ".weight")
	if err != nil {
		return nil, err
	}
	d := m.arch.dims()
	hidden, scale := d.shape.Hidden, float32(1)
	if d.embed.rounded {
		scale = float32(m.run.Embed.Scale)
	}
	var rows []float32
	for _, id := range ids {
		if id < 0 || id >= d.vocab {
			return nil, fmt.Errorf("token %d is outside the model's vocabulary of %d: its tokenizer is another one", id, d.vocab)
		}
		for _, v := range all[id*hidden : (id+1)*hidden] {
			rows = append(rows, v*scale)
		}
	}
	return rows, nil
}
