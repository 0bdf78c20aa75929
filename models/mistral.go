package models

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/nn"
)

// MistralConfig is config.json of Mistral 7B and NeMo (arXiv:2310.06825): Llama's layer with attention within a window in
// v0.1, without one since.
type MistralConfig struct {
	Decoder
	HiddenAct     string `json:"hidden_act,omitempty"` // "": "silu"
	SlidingWindow *int   `json:"sliding_window"`       // in tokens, the query's own among them; nil: none
}

func newMistral() Architecture {
	window := 4096
	return &MistralConfig{Decoder: Decoder{NumKeyValueHeads: 8, MaxPositionEmbeddings: 131072}, SlidingWindow: &window}
}

func (c *MistralConfig) block(l *nn.Layer, x *Node) *Node {
	return llamaBlock(l, x, within(l, c.SlidingWindow, attention.Options{}))
}

func (c *MistralConfig) tensors() nn.Block {
	return llamaTensors(c.shape(), c.IntermediateSize, biases{})
}

func (c *MistralConfig) dims() dims {
	d := c.Decoder.dims()
	d.types = typesOf(d.layers, func(int) bool { return c.SlidingWindow != nil })
	return d
}

// ModelType is "mistral".
func (c *MistralConfig) ModelType() string { return "mistral" }

// Validate reports the first field that cannot be used.
func (c *MistralConfig) Validate() error {
	return first(c.Decoder.Validate(), checkLayerTypes(nil, 0, c.SlidingWindow), one("hidden_act", c.HiddenAct, "silu"))
}
