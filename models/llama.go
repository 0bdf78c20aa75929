package models

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/nn"
)

// LlamaConfig is config.json of Llama 2 and 3.x (arXiv:2307.09288, arXiv:2407.21783), Yi and SmolLM2.
type LlamaConfig struct {
	Type                  string       `json:"model_type"` // "": "llama"
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
}

func (c *LlamaConfig) block(l *nn.Layer, x *Node) *Node { return llamaBlock(l, x, attention.Options{}) }

func (c *LlamaConfig) tensors() nn.Block {
	return llamaTensors(c.decoder().shape(), c.IntermediateSize, biases{qkv: c.AttentionBias, o: c.AttentionBias, mlp: c.MLPBias})
}

// ModelType is "llama".
func (c *LlamaConfig) ModelType() string {
	if c.Type == "" {
		return "llama"
	}
	return c.Type
}

// decoder is what the config has in common with other families'.
func (c *LlamaConfig) decoder() *Decoder {
	return &Decoder{
		VocabSize: c.VocabSize, HiddenSize: c.HiddenSize, IntermediateSize: c.IntermediateSize, NumHiddenLayers: c.NumHiddenLayers,
		NumAttentionHeads: c.NumAttentionHeads, NumKeyValueHeads: c.NumKeyValueHeads, HeadDim: c.HeadDim,
		MaxPositionEmbeddings: c.MaxPositionEmbeddings, RMSNormEps: c.RMSNormEps, TieWordEmbeddings: c.TieWordEmbeddings,
		RopeTheta: c.RopeTheta, RopeScaling: c.RopeScaling, RopeParameters: c.RopeParameters,
	}
}

// setDecoder takes what the config has in common with other families' from d.
func (c *LlamaConfig) setDecoder(d *Decoder) {
	c.VocabSize, c.HiddenSize, c.IntermediateSize, c.NumHiddenLayers = d.VocabSize, d.HiddenSize, d.IntermediateSize, d.NumHiddenLayers
	c.NumAttentionHeads, c.NumKeyValueHeads, c.HeadDim = d.NumAttentionHeads, d.NumKeyValueHeads, d.HeadDim
	c.MaxPositionEmbeddings, c.RMSNormEps, c.TieWordEmbeddings = d.MaxPositionEmbeddings, d.RMSNormEps, d.TieWordEmbeddings
	c.RopeTheta, c.RopeScaling, c.RopeParameters = d.RopeTheta, d.RopeScaling, d.RopeParameters
}

func (c *LlamaConfig) dims() dims { return c.decoder().dims() }

// Validate reports the first field that cannot be used.
func (c *LlamaConfig) Validate() error {
	if err := first(one("model_type", c.Type, "llama"), c.decoder().Validate()); err != nil {
		return err
	}
	if w := c.SlidingWindow; w != nil && *w > 0 {
		return &UnsupportedError{Field: "sliding_window", Value: *w, Supported: `null (full attention) for model_type "llama"`}
	}
	return one("hidden_act", c.HiddenAct, "silu")
}
