// Package quant holds what bitsandbytes has for fine-tuning: the 4-bit weights of QLoRA (NF4 and FP4 codes in blocks with
// one scale each, optionally with the scales quantized again), the int8 weights of LLM.int8(), and the 8-bit numbers in
// which optimizers keep their moments; on the host and inside GoMLX graphs.
//
// Start at [Quantize4Bit] and [Dequantize4Bit] for bytes on the host, at [QuantizeInt8] for int8, at [QuantizeBlockwise]
// for moments, at [BitsAndBytesConfig] for what a model loader is told, and at [Packed] for a weight as it lies in device
// memory, whatever its format; [Layout.DequantizeNode] turns that back into values within a program, [Quantize4BitNode]
// quantizes a weight that is on the device already. [StateDict] and [FromStateDict] are the tensors of a bnb-4bit
// checkpoint, [Int8Weight.StateDict] and [Int8FromStateDict] those of an int8 one. [NewReport] tells what a loaded
// model's weights (models.CausalLM lists them) take and what quantization has cost them.
//
// It is not for: finding the linears of a model (package models asks [BitsAndBytesConfig.Skips]), multiplying by a
// quantized weight (dequantize, then dot), quantizing inputs as LLM.int8() does, the optimizers' rules (package
// internal/layerwise has them).
//
// # The format
//
// A weight [out, in] is flattened row-major to n values and cut into blocks of 64 (or another power of two from 32 to
// 4096); blocks cross rows, the last one may be short. absmax[b] is the largest |x| of block b in float32; a value's
// code is the nearest of 16 numbers in [-1, 1] to x·(1/absmax), ties to the smaller number. bitsandbytes' byte k holds
// code 2k in its high nibble and code 2k+1 in its low one; an odd n is filled up with the code of 0. Device memory holds
// the same nibbles as two half-planes ([HalfPlanes]), which a GPU unpacks without interleaving.
//
// Double quantization subtracts the mean of all absmax ("offset") and stores each as one byte, the index of the nearest
// number of the signed dynamic map ([DynamicMap]) after scaling by the largest magnitude in its group of 256:
// 4.127 bits a weight in all instead of 4.5. Decoding rounds twice, float32(map[q]·nested) + offset; so do the graphs.
//
// An int8 weight has one scale for each row, the largest |x| in it after rounding to float16: code round(x·127/scale).
//
// Moments are a byte each, the index of the nearest number of a dynamic map, signed for first moments and unsigned for
// second ones, after scaling by the largest magnitude in a block of 256.
//
// # Equality with bitsandbytes
//
// The bytes (codes, absmax, nested codes, nested absmax, offset, CB, SCB) are those of bitsandbytes 0.50.2 on an x86 CPU, bit
// for bit, and so are the decoded values in float32, bfloat16 and float16: testdata holds its outputs and the script
// that made them. That covers its edges: the last short block is divided by its absmax where full blocks are multiplied
// by the reciprocal; an all-zero block is all code 0.0, and a short one gets absmax 1e-38. What can differ from another
// build of bitsandbytes:
//
//   - Its CUDA kernels use approximate reciprocals, rounded decimal FP4 boundaries and other codes for all-zero blocks:
//     values within an ulp or so of a boundary may take the neighbouring code. The values decoded from either are right.
//   - Its CPU kernel finds 8-bit codes through a table of 65536 steps, which is what is reproduced; CUDA searches the
//     256 numbers exactly, so codes near zero may differ by a few places. For moments [QuantizeBlockwiseNode] has both.
//   - The offset is torch's float32 mean, whose summation order is part of the result. Up to 32767 blocks (2 million
//     weights) it has one value; beyond, torch splits the sum over its threads. Here it is what one thread gives.
//   - FP4's code 8 decodes to -0, as its CPU and CUDA kernels have it; where a weight's rows are odd its CPU backend falls
//     back to torch and gives +0.
//   - NaN and ±Inf, which bitsandbytes turns into codes silently, are refused with their index, and so are block scales
//     whose sum is infinite, for double quantization.
package quant
