// Package layerwise runs a decoder as a short sequence of small programs, one call per layer and pass.
//
//	embed            ids → x                         rows gathered on the host, or on the device when they are trained
//	block forward    x → x', kept values             once per span of layers
//	head and loss    x → Σ cross entropy, d x        in chunks of tokens: logits [tokens, vocab] never exist
//	block backward   x, d x', kept values → d x, gradients of the trainable tensors
//	apply            global-norm clip and AdamW or Lion, span by span
//
// The same compiled program serves every layer of one kind, so that compiling costs one layer, a dequantized weight
// lives only inside one call, and each layer may keep other values for its backward pass. All data between calls stays
// in device buffers. Small models run several layers per call (a span).
//
// Weights, adapters and moments are explicit arguments of every call and replaced only after it succeeded: a step that
// fails loses nothing. Start reading at [Model] and [Session].
package layerwise
