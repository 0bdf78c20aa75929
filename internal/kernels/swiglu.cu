#include "gated.cuh"

extern "C" __global__ void __launch_bounds__(256)
loris_swiglu(const uint4* __restrict__ gateUp, const float* __restrict__ scale, const int* __restrict__ sizes, uint4* __restrict__ out) {
  gated<SiLU>(gateUp, scale, sizes, out);
}
