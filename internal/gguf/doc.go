// Package gguf reads GGUF model files, versions 2 and 3, little endian, and writes version 3: the single-file format of
// llama.cpp.
//
// A file holds metadata (the architecture's numbers, the tokenizer, the chat template) and tensors, many of them
// quantized. [Open] checks all of it against the file's size, so that a truncated or corrupt file is an error that says
// where; [File.Float32] decodes F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K and IQ4_NL bit for bit as ggml
// does. It never maps the file into memory and may be used from several goroutines. [Write] makes files, whole or not at
// all; [Encode] the tensors in them, in F32, F16, BF16, Q8_0 and Q4_0 with ggml's bits.
//
// It does not know models: names stay llama.cpp's ("blk.0.attn_q.weight"), and rows that llama.cpp permuted stay permuted;
// that is for the models package. Files split into parts must be merged first.
//
// github.com/gomlx/go-huggingface/models/gguf (v0.4.8) reads the same files, but does not check offsets, sizes and
// alignment against the file, accepts duplicate keys and any later version, cannot read nested arrays, hands out GoMLX tensors, and
// links the hub's download client; hence this package.
//
// Start at [Open] and [Write]. Source of the format: ggml's docs/gguf.md and gguf.cpp.
package gguf
