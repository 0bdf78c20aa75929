// Package attention is scaled-dot-product attention for training, in memory that grows linearly with the sequence:
//
//	out = softmax(scale · q·kᵀ, masked) · v        (arXiv:1706.03762)
//
// with grouped queries, causal and sliding-window masks, packed segments, soft-capped scores, an additive bias and
// dropout of the weights, on every backend.
// The tiled route is FlashAttention-2's algorithm (arXiv:2307.08691) in graph operations, with its recomputing backward
// written out; the cuDNN route is cuDNN's flash attention on CUDA, for what it can train: see [Explain]. The dense route
// materializes all scores, takes memory that grows with their number, and is chosen for short sequences only.
//
// It is not for generation with a key-value cache, and it projects nothing: q, k and v come with rotary positions applied.
//
// Start reading at [Attend]; a program per layer that saves what the backward needs uses [Forward] and [FromSaved].
package attention
