package models

import (
	"errors"
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
	// Encoder, if not nil, is trained in place of Prefix, which it computes. It is not among what comes back from the device.
	Encoder *PrefixEncoder
}

// PrefixEncoder computes keys and values of virtual tokens, tanh(E·W₀ᵀ + b₀)·W₂ᵀ + b₂: prefix_projection of PEFT.
type PrefixEncoder struct {
	Hidden       int
	Embedding    []float32 // E [Tokens, KVHeads·HeadDim]
	In, InBias   []float32 // W₀ [Hidden, KVHeads·HeadDim], b₀ [Hidden]
	Out, OutBias []float32 // W₂ [layers·2·KVHeads·HeadDim, Hidden], b₂
}

// Prefix computes the keys and values.
func (e *PrefixEncoder) Prefix() []float32 {
	width, out := len(e.In)/e.Hidden, len(e.OutBias)
	var all []float32
	for row := range slices.Chunk(e.Embedding, width) {
		inner := affine(row, e.In, e.InBias)
		for i, v := range inner {
			inner[i] = float32(math.Tanh(float64(v)))
		}
		all = append(all, affine(inner, e.Out, e.OutBias)[:out]...)
	}
	return all
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

func (e *PrefixEncoder) check(tokens, width, out int) error {
	for _, p := range []struct {
		name       string
		have, want int
	}{
		{"embedding", len(e.Embedding), tokens * width}, {"transform.0.weight", len(e.In), e.Hidden * width}, {"transform.0.bias", len(e.InBias), e.Hidden},
		{"transform.2.weight", len(e.Out), out * e.Hidden}, {"transform.2.bias", len(e.OutBias), out},
	} {
		if e.Hidden <= 0 || p.have != p.want {
			return fmt.Errorf("virtual tokens: the encoder's %s has %d values, want %d for a hidden size of %d", p.name, p.have, p.want, e.Hidden)
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
	case v.Encoder != nil && v.Prefix == nil:
		return errors.New("virtual tokens: an encoder without the keys and values that it computes")
	case v.Encoder != nil:
		return v.Encoder.check(v.Tokens, m.PrefixWidth(), prefix/v.Tokens)
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

// addVirtual uploads the embeddings of virtual tokens, and says how many of these there are.
func (m *CausalLM) addVirtual(b *nn.LayoutBuilder, w *nn.Weights, v *Virtual) error {
	hidden := m.arch.dims().shape.Hidden
	b.Virtual(v.Tokens, hidden, v.Embeddings != nil)
	if e := v.Encoder; e != nil {
		width, out := m.PrefixWidth(), len(e.OutBias)
		b.Encoder(v.Tokens, width, e.Hidden, out)
		return errors.Join(m.put(w, e.Embedding, v.Tokens, width), m.put(w, e.In, e.Hidden, width), m.put(w, e.InBias, e.Hidden),
			m.put(w, e.Out, out, e.Hidden), m.put(w, e.OutBias, out))
	}
	if v.Embeddings == nil {
		return nil
	}
	return m.put(w, v.Embeddings, v.Tokens, hidden)
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
