// Package gguf reads GGUF model files, versions 2 and 3, little endian: the single-file format of llama.cpp.
//
// A file holds metadata (the architecture's numbers, the tokenizer, the chat template) and tensors, many of them
// quantized. [Open] checks all of it against the file's size, so that a truncated or corrupt file is an error that says
// where; [File.Float32] decodes F32, F16, BF16, Q4_0, Q4_1 and Q8_0 bit for bit as ggml does. It never maps the file into
// memory and may be used from several goroutines.
//
// It is not for writing GGUF, and it does not know models: names stay llama.cpp's ("blk.0.attn_q.weight"), and rows that
// llama.cpp permuted stay permuted; that is for the models package. Files split into parts must be merged first.
//
// github.com/gomlx/go-huggingface/models/gguf (v0.4.8) reads the same files, but does not check offsets, sizes and
// alignment against the file, accepts duplicate keys and any later version, cannot read nested arrays, hands out GoMLX tensors, and
// links the hub's download client; hence this package.
//
// Start at [Open]. Source of the format: ggml's docs/gguf.md and gguf.cpp.
package gguf
