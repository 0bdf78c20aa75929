// Package nn is the seam between the maths of a model family and what runs it.
//
// A family declares the tensors of its decoder layer ([Block]) and writes the layer as a function of a [Layer]:
//
//	qkv := l.NormLinears(x, "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
//	q, k := l.RoPE(l.Heads(qkv[0])), l.RoPE(l.Heads(qkv[1]))
//
// What answers such a call (a dense weight or NF4 codes, with or without a LoRA adapter on it, several linears as one
// matrix product) and what is kept for the backward pass is decided here and below, never in the family. Conversely
// nothing here knows a family, a file format or a training loop.
//
// Reading order: block.go (what a layer consists of), layer.go (the primitives), linear.go (the linears and their
// adapters), tape.go (which values a forward program hands to its backward program).
package nn
