// Decodes weights with one float32 scale for each block.
#include "nf4.cuh"

// absmax f32, one for each block.
extern "C" __global__ void __launch_bounds__(THREADS)
loris_nf4(const uint2* __restrict__ codes, const float* __restrict__ absmax, const float* __restrict__ factor0, const float* __restrict__ factor1,
          const float* __restrict__ factor2, const int* __restrict__ sizes, uint4* __restrict__ out) {
  dequantize(codes, Scales{absmax}, Factors{{factor0, factor1, factor2}, sizes + 7}, sizes, out);
}
