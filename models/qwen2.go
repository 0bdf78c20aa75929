package models

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/nn"
)

// Qwen2Config is config.json of Qwen2 and Qwen2.5 (arXiv:2407.10671, arXiv:2412.15115): Llama's layer with biases on q, k
// and v; the upper layers may attend within a window.
type Qwen2Config struct {
	Decoder
	QwenWindow
	HiddenAct string `json:"hidden_act,omitempty"` // "": "silu"
}

// QwenWindow says which layers of a Qwen2 or Qwen3 attend within a window.
type QwenWindow struct {
	UseSlidingWindow bool     `json:"use_sliding_window"`
	SlidingWindow    *int     `json:"sliding_window"`    // in tokens, the query's own among them; counts with UseSlidingWindow only
	MaxWindowLayers  int      `json:"max_window_layers"` // the first layer with a window, despite its name
	LayerTypes       []string `json:"layer_types,omitempty"`
}

func newQwen2() Architecture { return &Qwen2Config{Decoder: qwenDefaults(), QwenWindow: qwenWindow()} }

func qwenDefaults() Decoder { return Decoder{NumKeyValueHeads: 32, MaxPositionEmbeddings: 32768} }

func qwenWindow() QwenWindow {
	window := 4096
	return QwenWindow{SlidingWindow: &window, MaxWindowLayers: 28}
}

func (c *Qwen2Config) block(l *nn.Layer, x *Node) *Node {
	return llamaBlock(l, x, within(l, c.SlidingWindow, attention.Options{}))
}

func (c *Qwen2Config) tensors() nn.Block {
	return llamaTensors(c.shape(), c.IntermediateSize, biases{qkv: true})
}

func (c *Qwen2Config) dims() dims {
	d := c.Decoder.dims()
	d.types = c.types(d.layers)
	return d
}

func (w *QwenWindow) types(layers int) []string {
	if w.LayerTypes != nil {
		return w.LayerTypes
	}
	return typesOf(layers, func(i int) bool { return w.window() != nil && i >= w.MaxWindowLayers })
}

// window is the one that counts.
func (w *QwenWindow) window() *int {
	if !w.UseSlidingWindow {
		return nil
	}
	return w.SlidingWindow
}

// ModelType is "qwen2".
func (c *Qwen2Config) ModelType() string { return "qwen2" }

// Validate reports the first field that cannot be used.
func (c *Qwen2Config) Validate() error {
	return first(c.Decoder.Validate(), checkLayerTypes(c.LayerTypes, c.NumHiddenLayers, c.window()), one("hidden_act", c.HiddenAct, "silu"))
}
