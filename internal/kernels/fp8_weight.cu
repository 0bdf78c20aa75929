// Decodes weights with one float32 scale for each block to float8.
#include "fp8.cuh"

// absmax f32, one for each block.
extern "C" __global__ void __launch_bounds__(256)
loris_fp8_weight(const uint4* __restrict__ codes, const float* __restrict__ absmax, const float* __restrict__ unit, const u16* __restrict__ tail,
                 const float* __restrict__ tailUnit,
                 const int* __restrict__ sizes, uint4* __restrict__ out) {
  decodeWeight(codes, Scales{absmax}, unit, tail, tailUnit, sizes, out);
}
