package models

import (
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/nn"
)

// GraniteConfig is config.json of the dense Granite 3.x (arXiv:2408.13359's power-law scaling): Llama's layer with a factor
// on the embedding, the scores, what each sublayer adds, and the logits. Zero factors are 1.
type GraniteConfig struct {
	Decoder
	HiddenAct           string  `json:"hidden_act,omitempty"`           // "": "silu"
	AttentionBias       bool    `json:"attention_bias,omitempty"`       // on q, k, v and o
	MLPBias             bool    `json:"mlp_bias,omitempty"`             //
	EmbeddingMultiplier float64 `json:"embedding_multiplier,omitempty"` // on the rows of the embedding
	AttentionMultiplier float64 `json:"attention_multiplier,omitempty"` // on the scores, in place of 1/sqrt(head_dim)
	ResidualMultiplier  float64 `json:"residual_multiplier,omitempty"`  // on what is added to the residual stream
	LogitsScaling       float64 `json:"logits_scaling,omitempty"`       // logits are divided by it
}

func newGranite() Architecture { return &GraniteConfig{Decoder: Decoder{MaxPositionEmbeddings: 2048}} }

// block is one decoder layer: x [batch, seq, hidden] → [batch, seq, hidden].
func (c *GraniteConfig) block(l *nn.Layer, x *Node) *Node {
	add := func(x, y *Node, linear string) *Node {
		return l.Residual(x, l.Scale(l.Linear(y, linear), or(c.ResidualMultiplier, 1)))
	}
	q, k, v := l.RotaryHeads(l.NormLinears(x, "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))
	x = add(x, l.Attend(q, k, v, attention.Options{Scale: or(c.AttentionMultiplier, 1)}), "self_attn.o_proj")
	return l.PerToken(x, func(x *Node) *Node {
		gateUp := l.NormLinears(x, "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj")
		return add(x, l.SwiGLU(gateUp), "mlp.down_proj")
	})
}

func (c *GraniteConfig) tensors() nn.Block {
	return llamaTensors(c.shape(), c.IntermediateSize, biases{qkv: c.AttentionBias, o: c.AttentionBias, mlp: c.MLPBias})
}

func (c *GraniteConfig) dims() dims {
	d := c.Decoder.dims()
	d.embed = embedScale{factor: c.EmbeddingMultiplier}
	d.logit = layerwise.Logit{Divisor: c.LogitsScaling}
	return d
}

// ModelType is "granite".
func (c *GraniteConfig) ModelType() string { return "granite" }

// Validate reports the first field that cannot be used.
func (c *GraniteConfig) Validate() error {
	for name, v := range map[string]float64{
		"embedding_multiplier": c.EmbeddingMultiplier, "attention_multiplier": c.AttentionMultiplier,
		"residual_multiplier": c.ResidualMultiplier, "logits_scaling": c.LogitsScaling,
	} {
		if !(v >= 0) {
			return fmt.Errorf("%s is %v, want a positive number", name, v)
		}
	}
	return first(c.Decoder.Validate(), one("hidden_act", c.HiddenAct, "silu"))
}
