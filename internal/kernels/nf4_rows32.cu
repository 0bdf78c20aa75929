// The product of up to 32 rows with a 4-bit weight, and of more by parts.
#include "nf4_rows.cuh"

extern "C" __global__ void __launch_bounds__(32 * ROWS_WARPS, 2)
loris_nf4_rows32(const u16* __restrict__ x, const uint4* __restrict__ codes, const void* __restrict__ scaleCodes,
               const float* __restrict__ absmax, const float* __restrict__ offset, const float* __restrict__ map,
               const u16* __restrict__ low, const u16* __restrict__ tail, const int* __restrict__ sizes, float* __restrict__ out) {
  DYNAMIC_SHARED(memory);
  multiplyRows<4>(x, codes, MaybeNestedScales{scaleCodes, absmax, offset, map, sizes[5]}, low, tail, sizes, out, memory);
}
