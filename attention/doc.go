// Package attention is scaled-dot-product attention for training, in memory that grows linearly with the sequence:
//
//	out = softmax(scale · q·kᵀ, masked) · v        (arXiv:1706.03762)
//
// with grouped queries, causal and sliding-window masks, packed segments and soft-capped scores, on every backend.
// The tiled route is FlashAttention-2's algorithm (arXiv:2307.08691) in graph operations, with its recomputing backward
// written out; the cuDNN route is cuDNN's flash attention on CUDA; the dense route materializes the scores and is the
// plain twin that the others are tested against.
//
// It is not for generation with a key-value cache, has no dropout and no additive bias, and projects nothing: q, k and v
// come with rotary positions applied.
//
// Start reading at [Attend]; a program per layer that saves what the backward needs uses [Forward] and [FromSaved].
package attention
