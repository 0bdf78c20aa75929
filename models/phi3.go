package models

import (
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/nn"
)

// Phi3Config is config.json of Phi-3, Phi-3.5 and Phi-4-mini (arXiv:2404.14219, arXiv:2503.01743): Llama's layer with q, k
// and v as one linear and gate and up as another, which is how adapters see them; longrope, of a part of each head in
// Phi-4-mini. OriginalMaxPositionEmbeddings is where longrope switches from its short factors to the long ones.
type Phi3Config struct {
	Decoder
	HiddenAct           string  `json:"hidden_act,omitempty"`            // "": "silu"
	SlidingWindow       *int    `json:"sliding_window"`                  // in tokens, the query's own among them; nil: none
	PartialRotaryFactor float64 `json:"partial_rotary_factor,omitempty"` // the part of a head that RoPE rotates; 0: 1
	ResidPdrop          float64 `json:"resid_pdrop,omitempty"`
	EmbdPdrop           float64 `json:"embd_pdrop,omitempty"`
}

func newPhi3() Architecture {
	return &Phi3Config{Decoder: Decoder{RMSNormEps: 1e-5, MaxPositionEmbeddings: 4096, OriginalMaxPositionEmbeddings: 4096}}
}

// block is one decoder layer: x [batch, seq, hidden] → [batch, seq, hidden].
func (c *Phi3Config) block(l *nn.Layer, x *Node) *Node {
	s := c.shape()
	qkv := l.NormLinears(x, "input_layernorm", "self_attn.qkv_proj")[0]
	q, k, v := l.RotaryHeads(l.Cut(qkv, s.Heads*s.HeadDim, s.KVHeads*s.HeadDim, s.KVHeads*s.HeadDim))
	x = l.AddLinear(x, l.Attend(q, k, v, within(l, c.SlidingWindow, attention.Options{})), "self_attn.o_proj")
	return l.PerToken(x, func(x *Node) *Node {
		gateUp := l.NormLinears(x, "post_attention_layernorm", "mlp.gate_up_proj")[0]
		return l.AddLinear(x, l.SwiGLU(l.Cut(gateUp, c.IntermediateSize, c.IntermediateSize)), "mlp.down_proj")
	})
}

func (c *Phi3Config) tensors() nn.Block {
	s := c.shape()
	return nn.Block{
		Norms: norms(s.Hidden, "input_layernorm", "post_attention_layernorm"),
		Groups: [][]nn.Linear{
			{{Name: "self_attn.qkv_proj", In: s.Hidden, Out: (s.Heads + 2*s.KVHeads) * s.HeadDim}},
			{{Name: "self_attn.o_proj", In: s.Heads * s.HeadDim, Out: s.Hidden}},
			{{Name: "mlp.gate_up_proj", In: s.Hidden, Out: 2 * c.IntermediateSize}},
			{{Name: "mlp.down_proj", In: c.IntermediateSize, Out: s.Hidden}},
		},
	}
}

func (c *Phi3Config) dims() dims {
	d := c.sizes()
	d.shape.Rotary = c.rotary()
	d.rope = c.rope().rope(d.shape.Rotary, d.context)
	d.types = typesOf(d.layers, func(int) bool { return c.SlidingWindow != nil })
	return d
}

// rotary is how many features of a head RoPE rotates.
func (c *Phi3Config) rotary() int {
	return int(float64(c.headDim()) * or(c.rope().PartialRotaryFactor, 1))
}

// rope is that of the file, in which longrope has had other names.
func (c *Phi3Config) rope() RopeScaling {
	r := c.RopeScaling
	if r.isZero() {
		r = c.RopeParameters
	}
	if kind := r.kind(); kind == "su" || kind == "yarn" {
		renamed := *r
		renamed.RopeType = "longrope"
		r = &renamed
	}
	return r.filled(or(c.RopeTheta, 10000), c.PartialRotaryFactor, c.MaxPositionEmbeddings, c.OriginalMaxPositionEmbeddings)
}

// ropeJSON are the fields of config.json about RoPE, for every transformers: version 4 wants rope_scaling of Phi-3 to have
// three fields, and the others outside.
func (c *Phi3Config) ropeJSON() map[string]any {
	r := c.rope()
	fields := ropeFields(r)
	fields["partial_rotary_factor"] = or(r.PartialRotaryFactor, 1)
	if r.RopeType == "longrope" {
		fields["original_max_position_embeddings"] = r.OriginalMaxPositionEmbeddings
		fields["rope_scaling"] = RopeScaling{
			LegacyType: r.RopeType, ShortFactor: r.ShortFactor, LongFactor: r.LongFactor, Factor: r.Factor, AttentionFactor: r.AttentionFactor,
		}
	}
	return fields
}

// ModelType is "phi3".
func (c *Phi3Config) ModelType() string { return "phi3" }

// Validate reports the first field that cannot be used.
func (c *Phi3Config) Validate() error {
	if err := first(c.validateSizes(), checkLayerTypes(nil, 0, c.SlidingWindow), one("hidden_act", c.HiddenAct, "silu")); err != nil {
		return err
	}
	if c.ResidPdrop != 0 || c.EmbdPdrop != 0 {
		return &UnsupportedError{Field: "resid_pdrop, embd_pdrop", Value: fmt.Sprint(c.ResidPdrop, ", ", c.EmbdPdrop), Supported: "0"}
	}
	r := c.rope()
	if p := or(r.PartialRotaryFactor, 1); !(p > 0 && p <= 1) || c.rotary() < 2 || c.rotary()%2 != 0 {
		return fmt.Errorf("partial_rotary_factor %v of head_dim %d is %d rotated features, want an even number from 2 to head_dim", p, c.headDim(), c.rotary())
	}
	if err := one("rope_type", r.RopeType, "default", "longrope"); err != nil {
		return &UnsupportedError{Field: "rope_type", Value: r.RopeType, Supported: "default, longrope"}
	}
	return r.validate(c.rotary(), c.MaxPositionEmbeddings)
}
