// Decodes weights with double-quantized scales.
#include "nf4.cuh"

// absmaxCodes u8, one for each block; absmax and offset f32, one for each group of blocks; map f32 [256].
extern "C" __global__ void __launch_bounds__(THREADS)
loris_nf4_nested(const uint2* __restrict__ codes, const u8* __restrict__ absmaxCodes, const float* __restrict__ absmax,
                 const float* __restrict__ offset, const float* __restrict__ map, const float* __restrict__ factor0,
                 const float* __restrict__ factor1, const float* __restrict__ factor2, const int* __restrict__ sizes, uint4* __restrict__ out) {
  dequantize(codes, NestedScales{absmaxCodes, absmax, offset, map, sizes[6]}, Factors{{factor0, factor1, factor2}, sizes + 7}, sizes, out);
}
