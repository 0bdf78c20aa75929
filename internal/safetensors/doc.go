// Package safetensors reads and writes safetensors files, single or sharded as transformers lays them out.
//
// Reading never maps files into memory: a [File] checks the whole header against the file's size when it is opened, and
// reads tensors, or parts of them, with positioned reads when they are asked for. A [Set] is a model folder: one file, or
// the shards that model.safetensors.index.json names. Both may be used from several goroutines.
//
// Writing ([Write], [WriteSharded]) gives the bytes that the Rust and Python library gives for the same tensors, and
// never leaves a part of a file behind.
//
// It is not for numbers on devices, nor for names: what a tensor means is for models, peft and quant. Conversions
// between float32 and F64, F16, BF16 are in the package floats below; [Float32s] is the common one.
//
// Start at [OpenDir] to load a model, at [Open] and [Write] for an adapter. Source of the format: the safetensors
// repository, safetensors/src/tensor.rs.
package safetensors
