package models

import (
	"math"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/nn"
)

// GemmaConfig is config.json of Gemma 1 (arXiv:2403.08295): Llama's layer with GeGLU and norms that multiply by 1 + gain,
// behind embeddings times sqrt(hidden_size).
type GemmaConfig struct {
	Decoder
	HiddenAct                 string `json:"hidden_act,omitempty"`        // "": "gelu_pytorch_tanh", which "gelu" means, too
	HiddenActivation          string `json:"hidden_activation,omitempty"` // the same in older files
	AttentionBias             bool   `json:"attention_bias,omitempty"`    // on q, k, v and o
	UseBidirectionalAttention bool   `json:"use_bidirectional_attention,omitempty"`
}

func newGemma() Architecture { return &GemmaConfig{Decoder: gemmaDefaults(16)} }

// gemmaDefaults is what Gemma's classes take where a file says nothing.
func gemmaDefaults(kvHeads int) Decoder {
	return Decoder{HeadDim: 256, NumKeyValueHeads: kvHeads, MaxPositionEmbeddings: 8192, TieWordEmbeddings: true}
}

// block is one decoder layer: x [batch, seq, hidden] → [batch, seq, hidden].
func (c *GemmaConfig) block(l *nn.Layer, x *Node) *Node {
	q, k, v := l.RotaryHeads(l.NormLinears(x, "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))
	x = l.AddLinear(x, l.Attend(q, k, v, attention.Options{}), "self_attn.o_proj")
	return l.PerToken(x, func(x *Node) *Node {
		gateUp := l.NormLinears(x, "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj")
		return l.AddLinear(x, l.GeGLU(gateUp), "mlp.down_proj")
	})
}

func (c *GemmaConfig) tensors() nn.Block {
	return llamaTensors(c.shape(), c.IntermediateSize, biases{qkv: c.AttentionBias, o: c.AttentionBias})
}

func (c *GemmaConfig) dims() dims { return c.gemma(c.Decoder.dims()) }

// gemma adds what all Gemmas have: their norms, and the scale of the embedding.
func (d *Decoder) gemma(out dims) dims {
	out.shape.UnitOffset = true
	out.embed = embedScale{math.Sqrt(float64(d.HiddenSize)), true}
	return out
}

// ModelType is "gemma".
func (c *GemmaConfig) ModelType() string { return "gemma" }

// Validate reports the first field that cannot be used.
func (c *GemmaConfig) Validate() error {
	return first(c.Decoder.Validate(), one("hidden_act", c.HiddenAct, "gelu_pytorch_tanh", "gelu"),
		one("hidden_activation", c.HiddenActivation, "gelu_pytorch_tanh"), causal(c.UseBidirectionalAttention))
}

// causal refuses Gemmas that are encoders.
func causal(bidirectional bool) error {
	if bidirectional {
		return &UnsupportedError{Field: "use_bidirectional_attention", Value: true, Supported: "false"}
	}
	return nil
}
