// Decodes weights with double-quantized scales to float8.
#include "fp8.cuh"

// absmaxCodes u8, one for each block; absmax and offset f32, one for each group of blocks; map f32 [256].
extern "C" __global__ void __launch_bounds__(256)
loris_fp8_weight_nested(const uint4* __restrict__ codes, const u8* __restrict__ absmaxCodes, const float* __restrict__ absmax,
                        const float* __restrict__ offset, const float* __restrict__ map, const float* __restrict__ unit, const u16* __restrict__ tail,
                        const float* __restrict__ tailUnit,
                        const int* __restrict__ sizes, uint4* __restrict__ out) {
  decodeWeight(codes, NestedScales{absmaxCodes, absmax, offset, map, sizes[4]}, unit, tail, tailUnit, sizes, out);
}
