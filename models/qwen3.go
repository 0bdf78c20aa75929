package models

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/nn"
)

// Qwen3Config is config.json of the dense Qwen3 (arXiv:2505.09388): each head of q and k is normalized before RoPE.
type Qwen3Config struct {
	Decoder
	QwenWindow
	HiddenAct     string `json:"hidden_act,omitempty"`     // "": "silu"
	AttentionBias bool   `json:"attention_bias,omitempty"` // on q, k, v and o
}

func newQwen3() Architecture {
	c := &Qwen3Config{Decoder: qwenDefaults(), QwenWindow: qwenWindow()}
	c.HeadDim = 128
	return c
}

// block is one decoder layer: x [batch, seq, hidden] → [batch, seq, hidden].
func (c *Qwen3Config) block(l *nn.Layer, x *Node) *Node {
	qkv := l.NormLinears(x, "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
	q := l.RoPE(l.RMSNorm(l.Heads(qkv[0]), "self_attn.q_norm"))
	k := l.RoPE(l.RMSNorm(l.Heads(qkv[1]), "self_attn.k_norm"))
	attended := l.Attend(q, k, l.Heads(qkv[2]), within(l, c.SlidingWindow, attention.Options{}))
	x = l.AddLinear(x, attended, "self_attn.o_proj")
	return l.PerToken(x, func(x *Node) *Node {
		gateUp := l.NormLinears(x, "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj")
		return l.AddLinear(x, l.SwiGLU(gateUp), "mlp.down_proj")
	})
}

func (c *Qwen3Config) tensors() nn.Block {
	s := c.shape()
	b := llamaTensors(s, c.IntermediateSize, biases{qkv: c.AttentionBias, o: c.AttentionBias})
	b.Norms = append(b.Norms, norms(s.HeadDim, "self_attn.q_norm", "self_attn.k_norm")...)
	return b
}

func (c *Qwen3Config) dims() dims {
	d := c.Decoder.dims()
	d.types = c.types(d.layers)
	return d
}

// ModelType is "qwen3".
func (c *Qwen3Config) ModelType() string { return "qwen3" }

// Validate reports the first field that cannot be used.
func (c *Qwen3Config) Validate() error {
	return first(c.Decoder.Validate(), checkLayerTypes(c.LayerTypes, c.NumHiddenLayers, c.window()), one("hidden_act", c.HiddenAct, "silu"))
}
