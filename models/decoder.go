package models

import (
	"fmt"
	"slices"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/nn"
)

// Decoder is what config.json of most families has in common, named as there. Which zeros stand for a default is said
// at each field; what a file leaves out is read as that family's class in transformers reads it.
type Decoder struct {
	VocabSize             int          `json:"vocab_size"`
	HiddenSize            int          `json:"hidden_size"`
	IntermediateSize      int          `json:"intermediate_size"`
	NumHiddenLayers       int          `json:"num_hidden_layers"`
	NumAttentionHeads     int          `json:"num_attention_heads"`
	NumKeyValueHeads      int          `json:"num_key_value_heads,omitempty"` // 0: NumAttentionHeads
	HeadDim               int          `json:"head_dim,omitempty"`            // 0: HiddenSize / NumAttentionHeads
	MaxPositionEmbeddings int          `json:"max_position_embeddings,omitempty"`
	RMSNormEps            float64      `json:"rms_norm_eps,omitempty"` // 0: 1e-6
	TieWordEmbeddings     bool         `json:"tie_word_embeddings"`
	RopeTheta             float64      `json:"rope_theta,omitempty"` // 0: 10000
	RopeScaling           *RopeScaling `json:"rope_scaling,omitempty"`
	RopeParameters        *RopeScaling `json:"rope_parameters,omitempty"` // where newer files keep both of the above
	// OriginalMaxPositionEmbeddings, where a file has it outside of rope_scaling, goes before the one inside.
	OriginalMaxPositionEmbeddings int `json:"original_max_position_embeddings,omitempty"`
}

// Kinds of layers, as layer_types names them.
const (
	fullAttention    = "full_attention"
	slidingAttention = "sliding_attention"
)

func (d *Decoder) shape() nn.Shape {
	s := nn.Shape{Hidden: d.HiddenSize, Heads: d.NumAttentionHeads, KVHeads: d.NumKeyValueHeads, HeadDim: d.headDim(), NormEps: or(d.RMSNormEps, 1e-6)}
	if s.KVHeads == 0 {
		s.KVHeads = s.Heads
	}
	return s
}

func (d *Decoder) headDim() int {
	if d.HeadDim == 0 && d.NumAttentionHeads > 0 {
		return d.HiddenSize / d.NumAttentionHeads
	}
	return d.HeadDim
}

func (d *Decoder) dims() dims {
	out := d.sizes()
	out.rope = d.rope().rope(d.headDim(), d.MaxPositionEmbeddings)
	return out
}

// sizes are dims but for RoPE.
func (d *Decoder) sizes() dims {
	return dims{vocab: d.VocabSize, layers: d.NumHiddenLayers, context: d.MaxPositionEmbeddings, shape: d.shape(), tied: d.TieWordEmbeddings}
}

// rope returns what the file says of RoPE, filled in: in rope_scaling, or in rope_parameters of newer files. transformers 5
// looks in this order, too.
func (d *Decoder) rope() RopeScaling {
	r := d.RopeScaling
	if r.isZero() {
		r = d.RopeParameters
	}
	return r.filled(or(d.RopeTheta, 10000), 0, d.MaxPositionEmbeddings, d.OriginalMaxPositionEmbeddings)
}

// ropeJSON are the fields of config.json about RoPE, where every transformers finds them: rope_theta and rope_scaling for
// versions up to 4, rope_parameters for 5.
func (d *Decoder) ropeJSON() map[string]any { return ropeFields(d.rope()) }

func ropeFields(r RopeScaling) map[string]any {
	fields := map[string]any{"rope_theta": r.RopeTheta, "rope_parameters": r}
	if r.RopeType != "default" {
		r.RopeTheta = 0 // it has its own field
		fields["rope_scaling"] = r
	}
	return fields
}

// Bounds of a config's sizes, far above any model's, so that no product of two overflows and a damaged file asks for no
// work.
const maxSize, maxHeadDim, maxLayers = 1 << 24, 1 << 14, 1 << 14

// Validate reports the first field that cannot be used.
func (d *Decoder) Validate() error {
	if err := d.validateSizes(); err != nil {
		return err
	}
	r := d.rope()
	if p := r.PartialRotaryFactor; p != 0 && p != 1 {
		return &UnsupportedError{Field: "partial_rotary_factor", Value: p, Supported: "1 for this model_type"}
	}
	return r.validate(d.headDim(), d.MaxPositionEmbeddings)
}

func (d *Decoder) validateSizes() error {
	for _, f := range []struct {
		name  string
		value int
	}{
		{"vocab_size", d.VocabSize}, {"hidden_size", d.HiddenSize}, {"intermediate_size", d.IntermediateSize},
		{"num_hidden_layers", d.NumHiddenLayers}, {"num_attention_heads", d.NumAttentionHeads},
	} {
		if f.value <= 0 || f.value > maxSize {
			return fmt.Errorf("%s is %d, want a number from 1 to %d", f.name, f.value, maxSize)
		}
	}
	switch kv := d.NumKeyValueHeads; {
	case d.NumHiddenLayers > maxLayers:
		return fmt.Errorf("num_hidden_layers is %d, want at most %d", d.NumHiddenLayers, maxLayers)
	case kv < 0 || kv > 0 && d.NumAttentionHeads%kv != 0:
		return fmt.Errorf("num_key_value_heads %d does not divide num_attention_heads %d", kv, d.NumAttentionHeads)
	case d.HeadDim == 0 && d.HiddenSize%d.NumAttentionHeads != 0:
		return fmt.Errorf("hidden_size %d is not a multiple of num_attention_heads %d; give head_dim", d.HiddenSize, d.NumAttentionHeads)
	case d.headDim() > maxHeadDim || d.headDim() > maxSize/d.NumAttentionHeads:
		return fmt.Errorf("head_dim %d with num_attention_heads %d is too large", d.headDim(), d.NumAttentionHeads)
	case d.headDim() <= 0 || d.headDim()%2 != 0:
		return fmt.Errorf("head_dim %d must be even and positive", d.headDim())
	case !(d.RMSNormEps >= 0):
		return fmt.Errorf("rms_norm_eps is %v, want a positive number", d.RMSNormEps)
	}
	return nil
}

// one reports a value of a field that is none of the supported ones; "" is always one.
func one(field, value string, supported ...string) error {
	if value == "" || slices.Contains(supported, value) {
		return nil
	}
	return &UnsupportedError{Field: field, Value: value, Supported: supported[0]}
}

// checkLayerTypes checks layer_types, which a file may leave out, and the window that sliding layers need.
func checkLayerTypes(types []string, layers int, window *int) error {
	if types != nil && len(types) != layers {
		return fmt.Errorf("layer_types has %d entries, num_hidden_layers is %d", len(types), layers)
	}
	for _, t := range types {
		switch {
		case t != fullAttention && t != slidingAttention:
			return &UnsupportedError{Field: "layer_types", Value: t, Supported: fullAttention + ", " + slidingAttention}
		case t == slidingAttention && window == nil:
			return fmt.Errorf("layer_types has %s, but sliding_window is null", slidingAttention)
		}
	}
	if window != nil && *window <= 0 {
		return fmt.Errorf("sliding_window is %d, want a positive number, or null for full attention", *window)
	}
	return nil
}

// typesOf are the layers' types by a rule.
func typesOf(layers int, sliding func(i int) bool) []string {
	types := slices.Repeat([]string{fullAttention}, layers)
	for i := range types {
		if sliding(i) {
			types[i] = slidingAttention
		}
	}
	return types
}

// within are o for the layer: within the window where it is of the sliding type.
func within(l *nn.Layer, window *int, o attention.Options) attention.Options {
	if l.Kind() == slidingAttention {
		o.Window = *window
	}
	return o
}

// llamaBlock is the layer that most families share, x [batch, seq, hidden] → [batch, seq, hidden]: attention, then a gated
// MLP, each behind a norm and added to the stream.
func llamaBlock(l *nn.Layer, x *Node, o attention.Options) *Node {
	q, k, v := l.RotaryHeads(l.NormLinears(x, "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))
	x = l.AddLinear(x, l.Attend(q, k, v, o), "self_attn.o_proj")
	return l.PerToken(x, func(x *Node) *Node {
		gateUp := l.NormLinears(x, "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj")
		return l.AddLinear(x, l.SwiGLU(gateUp), "mlp.down_proj")
	})
}

// biases says which linears of llamaTensors have one.
type biases struct{ qkv, o, mlp bool }

// llamaTensors are the tensors of a layer with linears as Llama's.
func llamaTensors(s nn.Shape, features int, b biases) nn.Block {
	q, kv := s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	return nn.Block{
		Norms: norms(s.Hidden, "input_layernorm", "post_attention_layernorm"),
		Groups: [][]nn.Linear{
			{
				{Name: "self_attn.q_proj", In: s.Hidden, Out: q, Bias: b.qkv},
				{Name: "self_attn.k_proj", In: s.Hidden, Out: kv, Bias: b.qkv},
				{Name: "self_attn.v_proj", In: s.Hidden, Out: kv, Bias: b.qkv},
			},
			{{Name: "self_attn.o_proj", In: q, Out: s.Hidden, Bias: b.o}},
			{
				{Name: "mlp.gate_proj", In: s.Hidden, Out: features, Bias: b.mlp},
				{Name: "mlp.up_proj", In: s.Hidden, Out: features, Bias: b.mlp},
			},
			{{Name: "mlp.down_proj", In: features, Out: s.Hidden, Bias: b.mlp}},
		},
	}
}

// norms are gains of one size.
func norms(size int, names ...string) (all []nn.Norm) {
	for _, n := range names {
		all = append(all, nn.Norm{Name: n, Size: size})
	}
	return all
}
