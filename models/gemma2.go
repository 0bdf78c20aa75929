package models

import (
	"fmt"
	"math"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/nn"
)

// Gemma2Config is config.json of Gemma 2 (arXiv:2408.00118): Gemma with a norm behind each sublayer, soft caps on scores
// and logits, and every other layer within a window, the first among them.
type Gemma2Config struct {
	Decoder
	GemmaAttention
	HiddenActivation string `json:"hidden_activation,omitempty"` // "": "gelu_pytorch_tanh"
}

// GemmaAttention is what Gemma 2's and 3's config.json say of attention.
type GemmaAttention struct {
	QueryPreAttnScalar        float64  `json:"query_pre_attn_scalar,omitempty"`   // scores are divided by its root; 0: head_dim
	AttnLogitSoftcapping      *float64 `json:"attn_logit_softcapping,omitempty"`  // nil: none
	FinalLogitSoftcapping     *float64 `json:"final_logit_softcapping,omitempty"` // nil: none
	SlidingWindow             *int     `json:"sliding_window"`                    // in tokens, the query's own among them
	LayerTypes                []string `json:"layer_types,omitempty"`             // nil: by the family's rule
	AttentionBias             bool     `json:"attention_bias,omitempty"`          // on q, k, v and o
	UseBidirectionalAttention bool     `json:"use_bidirectional_attention,omitempty"`
}

func newGemma2() Architecture {
	window, attn, final := 4096, 50.0, 30.0
	return &Gemma2Config{Decoder: gemmaDefaults(4), GemmaAttention: GemmaAttention{
		QueryPreAttnScalar: 256, AttnLogitSoftcapping: &attn, FinalLogitSoftcapping: &final, SlidingWindow: &window,
	}}
}

// block is one decoder layer: x [batch, seq, hidden] → [batch, seq, hidden].
func (c *Gemma2Config) block(l *nn.Layer, x *Node) *Node {
	q, k, v := l.RotaryHeads(l.NormLinears(x, "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))
	return gemmaSandwich(l, x, l.Attend(q, k, v, c.options(l, c.headDim())))
}

// gemmaSandwich is the rest of a layer of Gemma 2 and 3, from what attention attended on: both sublayers end in a norm.
func gemmaSandwich(l *nn.Layer, x, attended *Node) *Node {
	x = l.Residual(x, l.RMSNorm(l.Linear(attended, "self_attn.o_proj"), "post_attention_layernorm"))
	return l.PerToken(x, func(x *Node) *Node {
		gateUp := l.NormLinears(x, "pre_feedforward_layernorm", "mlp.gate_proj", "mlp.up_proj")
		return l.Residual(x, l.RMSNorm(l.Linear(l.GeGLU(gateUp), "mlp.down_proj"), "post_feedforward_layernorm"))
	})
}

// options are attention's in the layer.
func (a *GemmaAttention) options(l *nn.Layer, headDim int) attention.Options {
	o := attention.Options{Scale: 1 / math.Sqrt(or(a.QueryPreAttnScalar, float64(headDim)))}
	if a.AttnLogitSoftcapping != nil {
		o.SoftCap = *a.AttnLogitSoftcapping
	}
	return within(l, a.SlidingWindow, o)
}

// logit is what becomes of logits.
func (a *GemmaAttention) logit() (l layerwise.Logit) {
	if a.FinalLogitSoftcapping != nil {
		l.SoftCap = *a.FinalLogitSoftcapping
	}
	return l
}

func (a *GemmaAttention) validate(layers int) error {
	for name, cap := range map[string]*float64{"attn_logit_softcapping": a.AttnLogitSoftcapping, "final_logit_softcapping": a.FinalLogitSoftcapping} {
		if cap != nil && !(*cap > 0) {
			return fmt.Errorf("%s is %v, want a positive number, or null for none", name, *cap)
		}
	}
	if !(a.QueryPreAttnScalar >= 0) {
		return fmt.Errorf("query_pre_attn_scalar is %v, want a positive number", a.QueryPreAttnScalar)
	}
	return first(checkLayerTypes(a.LayerTypes, layers, a.SlidingWindow), causal(a.UseBidirectionalAttention))
}

func (c *Gemma2Config) tensors() nn.Block {
	s := c.shape()
	b := llamaTensors(s, c.IntermediateSize, biases{qkv: c.AttentionBias, o: c.AttentionBias})
	b.Norms = append(b.Norms, norms(s.Hidden, "pre_feedforward_layernorm", "post_feedforward_layernorm")...)
	return b
}

func (c *Gemma2Config) dims() dims {
	d := c.gemma(c.Decoder.dims())
	d.logit = c.logit()
	if d.types = c.LayerTypes; d.types == nil {
		d.types = typesOf(d.layers, func(i int) bool { return i%2 == 0 })
	}
	return d
}

// ModelType is "gemma2".
func (c *Gemma2Config) ModelType() string { return "gemma2" }

// Validate reports the first field that cannot be used.
func (c *Gemma2Config) Validate() error {
	if err := first(c.Decoder.Validate(), one("hidden_activation", c.HiddenActivation, "gelu_pytorch_tanh"), c.validate(c.NumHiddenLayers)); err != nil {
		return err
	}
	return checkLayerTypes(c.dims().types, c.NumHiddenLayers, c.SlidingWindow)
}
