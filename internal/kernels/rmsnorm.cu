// RMSNorm (arXiv:1910.07467), one block for a row, which it keeps in registers: HELD chunks a thread.
#include "device.cuh"

constexpr int HELD = 4;

// x [T,H], gain [H], xa f32 [T,n] -> h [T,H+8X] = [x*rstd*gain | xa*rstd | 0], rstd f32 [T], low [T,n] = xa*rstd.
// With an offset, h is x*rstd*(1+gain), rounded once. sizes = {H/8, n, X, bits of eps, offset}; grid T.
extern "C" __global__ void __launch_bounds__(512)
loris_rmsnorm(const uint4* __restrict__ x, const uint4* __restrict__ gain, const float* __restrict__ xa,
              const int* __restrict__ sizes, uint4* __restrict__ h, float* __restrict__ rstd, u16* __restrict__ low) {
  __shared__ float sums[16];
  const int chunks = sizes[0], n = sizes[1], X = sizes[2], offset = sizes[4], tid = threadIdx.x;
  const float eps = __int_as_float(sizes[3]);
  const size_t row = blockIdx.x, from = row * chunks, to = row * (chunks + X);
  uint4 held[HELD];
  float sum = 0;
#pragma unroll
  for (int k = 0; k < HELD; k++) {
    const int c = tid + k * blockDim.x;
    if (c < chunks) {
      float f[8];
      held[k] = x[from + c];
      widen(f, held[k]);
#pragma unroll
      for (int i = 0; i < 8; i++) sum += f[i] * f[i];
    }
  }
  const float r = rsqrtf(blockSum(sum, sums) / (8 * chunks) + eps);
#pragma unroll
  for (int k = 0; k < HELD; k++) {
    const int c = tid + k * blockDim.x;
    if (c < chunks) {
      float f[8], g[8];
      widen(f, held[k]);
      widen(g, gain[c]);
#pragma unroll
      for (int i = 0; i < 8; i++) f[i] = offset ? f[i] * r * (1.f + g[i]) : rounded(f[i] * r) * g[i];
      h[to + c] = narrow(f);
    }
  }
  if (tid == 0) rstd[row] = r;
  u16* pad = (u16*)(h + to + chunks);
  for (int i = tid; i < 8 * X; i += blockDim.x) {
    const u16 v = i < n ? (u16)pack(xa[row * n + i] * r, 0.f) : (u16)0;
    pad[i] = v;
    if (i < n) low[row * n + i] = v;
  }
}
