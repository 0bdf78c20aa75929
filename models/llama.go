package models

import (
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/nn"
)

// LlamaConfig is config.json of Llama 2 and 3.x (arXiv:2307.09288, arXiv:2407.21783), Yi, SmolLM2, and of Mistral
// (arXiv:2310.06825) without its sliding window.
type LlamaConfig struct {
	Type                  string       `json:"model_type"`
	VocabSize             int          `json:"vocab_size"`
	HiddenSize            int          `json:"hidden_size"`
	IntermediateSize      int          `json:"intermediate_size"`
	NumHiddenLayers       int          `json:"num_hidden_layers"`
	NumAttentionHeads     int          `json:"num_attention_heads"`
	NumKeyValueHeads      int          `json:"num_key_value_heads,omitempty"` // 0: NumAttentionHeads
	HeadDim               int          `json:"head_dim,omitempty"`            // 0: HiddenSize / NumAttentionHeads
	HiddenAct             string       `json:"hidden_act,omitempty"`          // "": "silu"
	MaxPositionEmbeddings int          `json:"max_position_embeddings,omitempty"`
	RMSNormEps            float64      `json:"rms_norm_eps,omitempty"` // 0: 1e-6
	RopeTheta             float64      `json:"rope_theta,omitempty"`   // 0: 10000
	RopeScaling           *RopeScaling `json:"rope_scaling,omitempty"`
	RopeParameters        *RopeScaling `json:"rope_parameters,omitempty"` // where newer files keep both of the above
	TieWordEmbeddings     bool         `json:"tie_word_embeddings"`
	AttentionBias         bool         `json:"attention_bias,omitempty"` // on q, k, v and o
	MLPBias               bool         `json:"mlp_bias,omitempty"`
	SlidingWindow         *int         `json:"sliding_window,omitempty"`

	ropeFactors []float32 // divisors of the frequencies as a GGUF file lists them
}

// block is one decoder layer: x [batch, seq, hidden] → [batch, seq, hidden].
func (c *LlamaConfig) block(l *nn.Layer, x *Node) *Node {
	q, k, v := l.RotaryHeads(l.NormLinears(x, "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))
	x = l.AddLinear(x, l.Attend(q, k, v, attention.Options{}), "self_attn.o_proj")
	gateUp := l.NormLinears(x, "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj")
	return l.AddLinear(x, l.SwiGLU(gateUp), "mlp.down_proj")
}

func (c *LlamaConfig) tensors() nn.Block {
	d := c.dims().shape
	q, kv := d.Heads*d.HeadDim, d.KVHeads*d.HeadDim
	return nn.Block{
		Norms: []nn.Norm{{Name: "input_layernorm", Size: d.Hidden}, {Name: "post_attention_layernorm", Size: d.Hidden}},
		Groups: [][]nn.Linear{
			{
				{Name: "self_attn.q_proj", In: d.Hidden, Out: q, Bias: c.AttentionBias},
				{Name: "self_attn.k_proj", In: d.Hidden, Out: kv, Bias: c.AttentionBias},
				{Name: "self_attn.v_proj", In: d.Hidden, Out: kv, Bias: c.AttentionBias},
			},
			{{Name: "self_attn.o_proj", In: q, Out: d.Hidden, Bias: c.AttentionBias}},
			{
				{Name: "mlp.gate_proj", In: d.Hidden, Out: c.IntermediateSize, Bias: c.MLPBias},
				{Name: "mlp.up_proj", In: d.Hidden, Out: c.IntermediateSize, Bias: c.MLPBias},
			},
			{{Name: "mlp.down_proj", In: c.IntermediateSize, Out: d.Hidden, Bias: c.MLPBias}},
		},
	}
}

// ModelType is "llama" or "mistral".
func (c *LlamaConfig) ModelType() string {
	if c.Type == "" {
		return "llama"
	}
	return c.Type
}

func (c *LlamaConfig) dims() dims {
	s := nn.Shape{Hidden: c.HiddenSize, Heads: c.NumAttentionHeads, KVHeads: c.NumKeyValueHeads, HeadDim: c.HeadDim, NormEps: c.RMSNormEps}
	if s.KVHeads == 0 {
		s.KVHeads = s.Heads
	}
	if s.HeadDim == 0 {
		s.HeadDim = s.Hidden / s.Heads
	}
	if s.NormEps == 0 {
		s.NormEps = 1e-6
	}
	return dims{
		vocab: c.VocabSize, layers: c.NumHiddenLayers, context: c.MaxPositionEmbeddings, shape: s, tied: c.TieWordEmbeddings,
		inverse: c.rope().inverse(c.theta(), s.HeadDim, c.ropeFactors),
	}
}

// rope returns what the file says of RoPE: in rope_scaling, or in rope_parameters of newer files. transformers 5 looks in
// this order, too.
func (c *LlamaConfig) rope() *RopeScaling {
	if c.RopeScaling != nil && *c.RopeScaling != (RopeScaling{}) {
		return c.RopeScaling
	}
	return c.RopeParameters
}

func (c *LlamaConfig) theta() float64 {
	if r := c.rope(); r != nil && r.RopeTheta != 0 {
		return r.RopeTheta
	}
	if c.RopeTheta != 0 {
		return c.RopeTheta
	}
	return 10000
}

// Bounds of a config's sizes, far above any model's, so that no product of two overflows and a damaged file asks for no
// work.
const maxSize, maxHeadDim = 1 << 24, 1 << 14

// Validate reports the first field that cannot be used.
func (c *LlamaConfig) Validate() error {
	for _, f := range []struct {
		name  string
		value int
	}{
		{"vocab_size", c.VocabSize}, {"hidden_size", c.HiddenSize}, {"intermediate_size", c.IntermediateSize},
		{"num_hidden_layers", c.NumHiddenLayers}, {"num_attention_heads", c.NumAttentionHeads},
	} {
		if f.value <= 0 || f.value > maxSize {
			return fmt.Errorf("%s is %d, want a number from 1 to %d", f.name, f.value, maxSize)
		}
	}
	switch kv := c.NumKeyValueHeads; {
	case kv < 0 || kv > 0 && c.NumAttentionHeads%kv != 0:
		return fmt.Errorf("num_key_value_heads %d does not divide num_attention_heads %d", kv, c.NumAttentionHeads)
	case c.HeadDim == 0 && c.HiddenSize%c.NumAttentionHeads != 0:
		return fmt.Errorf("hidden_size %d is not a multiple of num_attention_heads %d; give head_dim", c.HiddenSize, c.NumAttentionHeads)
	case c.headDim() > maxHeadDim || c.headDim() > maxSize/c.NumAttentionHeads:
		return fmt.Errorf("head_dim %d with num_attention_heads %d is too large", c.headDim(), c.NumAttentionHeads)
	case c.HeadDim < 0 || c.HeadDim%2 != 0 || c.HeadDim == 0 && c.HiddenSize/c.NumAttentionHeads%2 != 0:
		return fmt.Errorf("head_dim %d must be even and positive", c.dims().shape.HeadDim)
	case c.HiddenAct != "" && c.HiddenAct != "silu":
		return &UnsupportedError{Field: "hidden_act", Value: c.HiddenAct, Supported: "silu"}
	case c.SlidingWindow != nil && *c.SlidingWindow > 0:
		return &UnsupportedError{Field: "sliding_window", Value: *c.SlidingWindow, Supported: "null (full attention)"}
	case c.RMSNormEps < 0:
		return fmt.Errorf("rms_norm_eps is %v, want a positive number", c.RMSNormEps)
	}
	return c.rope().validate()
}
