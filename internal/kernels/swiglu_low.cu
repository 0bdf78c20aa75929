#include "low.cuh"

extern "C" __global__ void __launch_bounds__(WARPS * 32)
loris_swiglu_low(const uint4* __restrict__ gateUp, const uint4* __restrict__ a, const int* __restrict__ sizes, uint4* __restrict__ out, u16* __restrict__ low) {
  lowOf<GatedBy<SiLU>>(gateUp, a, sizes, out, low);
}
