// RMSNorm (arXiv:1910.07467) rounded to float8, one block for a row, which it keeps in registers: HELD chunks a thread.
#include "fp8.cuh"

constexpr int HELD = 4;

// x [T,H], gain [H], xa f32 [T,n], factor and unit f32, powers of two -> out e4m3 [T,H+8P] = [h/s | low*factor/s in 8P columns], scale
// f32 [T] = s*unit, where s is a power of two, rstd f32 [T], low [T,n] = xa*rstd. h is x*rstd*gain, rounded to bf16 before and behind
// the last product, or, with an offset, x*rstd*(1+gain), rounded once. sizes = {H/8, n, P, bits of eps, offset}; grid T.
extern "C" __global__ void __launch_bounds__(512)
loris_fp8_rmsnorm(const uint4* __restrict__ x, const uint4* __restrict__ gain, const float* __restrict__ xa,
                  const float* __restrict__ factor, const float* __restrict__ unit, const int* __restrict__ sizes,
                  uint2* __restrict__ out, float* __restrict__ scale, float* __restrict__ rstd, u16* __restrict__ low) {
  __shared__ float sums[16], most[16];
  const int chunks = sizes[0], n = sizes[1], P = sizes[2], offset = sizes[4], tid = threadIdx.x;
  const float eps = __int_as_float(sizes[3]), f = P ? factor[0] : 0.f;
  const size_t row = blockIdx.x, from = row * chunks, to = row * (chunks + P);
  xa += row * n;
  low += row * n;
  uint4 held[HELD];
  float sum = 0;
#pragma unroll
  for (int k = 0; k < HELD; k++) {
    const int c = tid + k * blockDim.x;
    if (c < chunks) {
      float v[8];
      held[k] = x[from + c];
      widen(v, held[k]);
#pragma unroll
      for (int i = 0; i < 8; i++) sum += v[i] * v[i];
    }
  }
  const float r = rsqrtf(blockSum(sum, sums) / (8 * chunks) + eps);
  float largest = 0;
#pragma unroll
  for (int k = 0; k < HELD; k++) {
    const int c = tid + k * blockDim.x;
    if (c < chunks) {
      float v[8], g[8];
      widen(v, held[k]);
      widen(g, gain[c]);
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = offset ? v[i] * r * (1.f + g[i]) : rounded(v[i] * r) * g[i];
      held[k] = narrow(v);
      widen(v, held[k]);
#pragma unroll
      for (int i = 0; i < 8; i++) largest = fmaxf(largest, fabsf(v[i]));
    }
  }
  for (int i = tid; P && i < n; i += blockDim.x) {
    const float v = rounded(xa[i] * r);
    low[i] = (u16)pack(v, 0.f);
    largest = fmaxf(largest, fabsf(v * f));
  }
  const u32 bits = scaleBits(blockMax(largest, most));
  const float inverse = __uint_as_float(inverseBits(bits));
#pragma unroll
  for (int k = 0; k < HELD; k++) {
    const int c = tid + k * blockDim.x;
    if (c < chunks) {
      float v[8];
      widen(v, held[k]);
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] *= inverse;
      out[to + c] = make_uint2(packE4M3(v[0], v[1], v[2], v[3]), packE4M3(v[4], v[5], v[6], v[7]));
    }
  }
  for (int word = tid; word < 2 * P; word += blockDim.x) {
    u32 v = 0;
    for (int k = 0; k < 4; k++) v |= factorE4M3(4 * word + k, n, false, [&](int j) { return rounded(xa[j] * r) * f * inverse; }) << 8 * k;
    ((u32*)(out + to + chunks))[word] = v;
  }
  if (tid == 0) {
    scale[row] = __uint_as_float(bits) * unit[0];
    rstd[row] = r;
  }
}
