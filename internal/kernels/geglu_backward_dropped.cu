#include "gated_backward.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 2)
loris_geglu_backward_dropped(const uint4* __restrict__ gateUp, const uint4* __restrict__ dact, const u16* __restrict__ b,
                      const uint4* __restrict__ low, const uint4* __restrict__ p, const u32* __restrict__ keys,
                      const float* __restrict__ scale, const float* __restrict__ dscale, const float* zero, const uint4* __restrict__ a,
                      const int* __restrict__ sizes, uint4* __restrict__ out, float* dlow, float* __restrict__ db,
                      float* __restrict__ da) {
  gateBackward<GELUTanh, true, true>(gateUp, dact, b, low, p, keys, scale, dscale, sizes, out, dlow, db, da, a);
}
