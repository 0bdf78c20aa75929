// SwiGLU (arXiv:2002.05202).
#include "device.cuh"

// gateUp [T,2F] -> out [T,F+8X] = [silu(gate)*up | 0]. sizes = {F/8, X, blocks for a row}; grid T times these.
extern "C" __global__ void __launch_bounds__(256)
loris_swiglu(const uint4* __restrict__ gateUp, const int* __restrict__ sizes, uint4* __restrict__ out) {
  const int chunks = sizes[0], X = sizes[1], blocks = sizes[2];
  const u32 block = blockIdx.x;
  const size_t row = block / blocks;
  const int c = (block - (u32)row * blocks) * 256 + threadIdx.x;
  if (c < X) out[row * (chunks + X) + chunks + c] = make_uint4(0, 0, 0, 0);
  if (c >= chunks) return;
  float gate[8], up[8];
  widen(gate, gateUp[row * 2 * chunks + c]);
  widen(up, gateUp[row * 2 * chunks + chunks + c]);
#pragma unroll
  for (int i = 0; i < 8; i++) gate[i] = gate[i] * sigmoid(gate[i]) * up[i];
  out[row * (chunks + X) + c] = narrow(gate);
}
