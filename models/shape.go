package models

// AttentionShape are the sizes of a model's attention.
type AttentionShape struct{ Layers, Heads, KVHeads, HeadDim int }

// AttentionShape returns the sizes of the model's attention.
func (m *CausalLM) AttentionShape() AttentionShape {
	d := m.arch.dims()
	return AttentionShape{Layers: d.layers, Heads: d.shape.Heads, KVHeads: d.shape.KVHeads, HeadDim: d.shape.HeadDim}
}
