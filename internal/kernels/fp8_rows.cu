// Rounds rows to float8, each with a scale of its own, one block for a row, which it keeps in registers: HELD chunks a thread,
// and reads what is longer twice.
#include "fp8.cuh"

constexpr int HELD = 4;

// x [T,8C], of which the first 8N columns count, low [T,n], factor and unit f32, powers of two -> out e4m3 [T,8N+8P] =
// [x/s | low*factor/s in 8P columns], scale f32 [T] = s*unit, where s is a power of two. sizes = {N, C, n, P}; grid T.
extern "C" __global__ void __launch_bounds__(512)
loris_fp8_rows(const uint4* __restrict__ x, const u16* __restrict__ low, const float* __restrict__ factor,
               const float* __restrict__ unit, const int* __restrict__ sizes, uint2* __restrict__ out, float* __restrict__ scale) {
  __shared__ float most[16];
  const int chunks = sizes[0], tid = threadIdx.x;
  const int n = sizes[2], P = sizes[3];
  const size_t row = blockIdx.x, from = row * sizes[1], to = row * (chunks + P);
  const float f = P ? factor[0] : 0.f;
  low += row * n;
  uint4 held[HELD];
  float largest = 0;
#pragma unroll
  for (int k = 0; k < HELD; k++) {
    const int c = tid + k * blockDim.x;
    held[k] = c < chunks ? x[from + c] : make_uint4(0, 0, 0, 0);
  }
#pragma unroll
  for (int k = 0; k < HELD; k++) {
    float f[8];
    widen(f, held[k]);
#pragma unroll
    for (int i = 0; i < 8; i++) largest = fmaxf(largest, fabsf(f[i]));
  }
  for (int c = tid + HELD * blockDim.x; c < chunks; c += blockDim.x) {
    float f[8];
    widen(f, x[from + c]);
    for (int i = 0; i < 8; i++) largest = fmaxf(largest, fabsf(f[i]));
  }
  for (int i = tid; P && i < n; i += blockDim.x) largest = fmaxf(largest, fabsf(lowHalf(low[i]) * f));
  const u32 bits = scaleBits(blockMax(largest, most));
  const float inverse = __uint_as_float(inverseBits(bits));
  auto write = [&](int c, const uint4& chunk) {
    float f[8];
    widen(f, chunk);
#pragma unroll
    for (int i = 0; i < 8; i++) f[i] *= inverse;
    out[to + c] = make_uint2(packE4M3(f[0], f[1], f[2], f[3]), packE4M3(f[4], f[5], f[6], f[7]));
  };
#pragma unroll
  for (int k = 0; k < HELD; k++) {
    const int c = tid + k * blockDim.x;
    if (c < chunks) write(c, held[k]);
  }
  for (int c = tid + HELD * blockDim.x; c < chunks; c += blockDim.x) write(c, x[from + c]);
  for (int word = tid; word < 2 * P; word += blockDim.x) {
    u32 v = 0;
    for (int k = 0; k < 4; k++) v |= factorE4M3(4 * word + k, n, false, [&](int j) { return lowHalf(low[j]) * f * inverse; }) << 8 * k;
    ((u32*)(out + to + chunks))[word] = v;
  }
  if (tid == 0) scale[row] = __uint_as_float(bits) * unit[0];
}
