package models

import (
	"fmt"
	"maps"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/nn"
)

// Gemma3Config is config.json of Gemma 3's language model (arXiv:2503.19786), model_type gemma3_text, or text_config in
// that of the models that also see: Gemma 2 with norms on q and k in place of the soft cap, and five layers within a
// window, which have a RoPE of their own, for each that sees all.
type Gemma3Config struct {
	Decoder // its RopeTheta and RopeScaling are those of the layers that see all
	GemmaAttention
	HiddenActivation     string  `json:"hidden_activation,omitempty"`      // "": "gelu_pytorch_tanh"
	SlidingWindowPattern int     `json:"sliding_window_pattern,omitempty"` // every such layer sees all; 0: 6
	RopeLocalBaseFreq    float64 `json:"rope_local_base_freq,omitempty"`   // theta of the others; 0: 10000
	// RopeParameters is, in newer files, RoPE by the layers' type.
	RopeParameters map[string]*RopeScaling `json:"rope_parameters,omitempty"`
}

func newGemma3() Architecture {
	window := 4096
	c := &Gemma3Config{Decoder: gemmaDefaults(4), GemmaAttention: GemmaAttention{QueryPreAttnScalar: 256, SlidingWindow: &window}}
	c.VocabSize, c.HiddenSize, c.IntermediateSize, c.NumHiddenLayers, c.NumAttentionHeads = 262208, 2304, 9216, 26, 8
	c.MaxPositionEmbeddings = 131072
	return c
}

// block is one decoder layer: x [batch, seq, hidden] → [batch, seq, hidden].
func (c *Gemma3Config) block(l *nn.Layer, x *Node) *Node {
	if l.Kind() == slidingAttention {
		l.UseRope(1)
	}
	qkv := l.NormLinears(x, "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
	q := l.RoPE(l.RMSNorm(l.Heads(qkv[0]), "self_attn.q_norm"))
	k := l.RoPE(l.RMSNorm(l.Heads(qkv[1]), "self_attn.k_norm"))
	return gemmaSandwich(l, x, l.Attend(q, k, l.Heads(qkv[2]), c.options(l, c.headDim())))
}

func (c *Gemma3Config) tensors() nn.Block {
	s := c.shape()
	b := llamaTensors(s, c.IntermediateSize, biases{qkv: c.AttentionBias, o: c.AttentionBias})
	b.Norms = append(b.Norms, norms(s.Hidden, "pre_feedforward_layernorm", "post_feedforward_layernorm")...)
	b.Norms = append(b.Norms, norms(s.HeadDim, "self_attn.q_norm", "self_attn.k_norm")...)
	return b
}

func (c *Gemma3Config) dims() dims {
	d := c.gemma(c.sizes())
	d.logit = c.logit()
	full, sliding := c.ropes()
	d.rope = full.rope(d.shape.HeadDim, d.context)
	d.rope.Tables = append(d.rope.Tables, sliding.frequencies(d.shape.HeadDim, d.context))
	if d.types = c.LayerTypes; d.types == nil {
		pattern := max(1, c.SlidingWindowPattern)
		if c.SlidingWindowPattern == 0 {
			pattern = 6
		}
		d.types = typesOf(d.layers, func(i int) bool { return (i+1)%pattern != 0 })
	}
	return d
}

// ropes returns what the file says of RoPE for layers of both types.
func (c *Gemma3Config) ropes() (full, sliding RopeScaling) {
	of := c.RopeScaling
	if of.isZero() {
		of = c.RopeParameters[fullAttention]
	}
	theta := or(c.RopeTheta, 1e6)
	if p := c.RopeParameters[fullAttention]; p != nil && p.RopeTheta != 0 {
		theta = p.RopeTheta
	}
	full = of.filled(theta, 0, c.MaxPositionEmbeddings, 0)
	sliding = c.RopeParameters[slidingAttention].filled(or(c.RopeLocalBaseFreq, 10000), 0, c.MaxPositionEmbeddings, 0)
	return full, sliding
}

// ropeJSON are the fields of config.json about RoPE, for every transformers.
func (c *Gemma3Config) ropeJSON() map[string]any {
	full, sliding := c.ropes()
	fields := ropeFields(full)
	maps.Copy(fields, map[string]any{
		"rope_local_base_freq": sliding.RopeTheta, "rope_parameters": map[string]RopeScaling{fullAttention: full, slidingAttention: sliding},
	})
	return fields
}

// ModelType is "gemma3_text".
func (c *Gemma3Config) ModelType() string { return "gemma3_text" }

// Validate reports the first field that cannot be used.
func (c *Gemma3Config) Validate() error {
	if err := first(c.validateSizes(), one("hidden_activation", c.HiddenActivation, "gelu_pytorch_tanh"), c.validate(c.NumHiddenLayers)); err != nil {
		return err
	}
	for key := range c.RopeParameters {
		if key != fullAttention && key != slidingAttention {
			return &UnsupportedError{Field: "rope_parameters", Value: fmt.Sprintf("with %q", key), Supported: fullAttention + ", " + slidingAttention}
		}
	}
	if c.SlidingWindowPattern < 0 {
		return fmt.Errorf("sliding_window_pattern is %d, want a positive number", c.SlidingWindowPattern)
	}
	full, sliding := c.ropes()
	for _, r := range []RopeScaling{full, sliding} {
		if p := r.PartialRotaryFactor; p != 0 && p != 1 {
			return &UnsupportedError{Field: "partial_rotary_factor", Value: p, Supported: "1 for this model_type"}
		}
		if err := r.validate(c.headDim(), c.MaxPositionEmbeddings); err != nil {
			return err
		}
	}
	return checkLayerTypes(c.dims().types, c.NumHiddenLayers, c.SlidingWindow)
}
