// A gated activation together with the product that an adapter behind it makes of it, which then need not read it again.
//
// A block takes TOKENS tokens and all of F, of which its warps take turns, UNIT columns each. What a lane reads, eight neighbouring
// columns, are the operands of two products: the order of columns within a product is free. The warps' sums are added up in
// a fixed order.
#pragma once
#include "gated.cuh"

constexpr int TOKENS = 16, WARPS = 16, RANK = 16, STEPS = 2, UNIT = STEPS * 32;

// gateUp [T,2F], a [16,F] -> out [T,F+8X] = [act(gate)*up | low | 0], low [T,16] = act(gate)*up a^T, rounded once.
// sizes = {F/8, X, T}; F is a multiple of UNIT, X at least 2; grid T/TOKENS.
template <class A>
__device__ __forceinline__ void gatedLow(const uint4* __restrict__ gateUp, const uint4* __restrict__ a, const int* __restrict__ sizes,
                                         uint4* __restrict__ out, u16* __restrict__ low) {
  __shared__ float sums[WARPS][TOKENS][RANK];
  const int chunks = sizes[0], X = sizes[1], begin = blockIdx.x * TOKENS, left = sizes[2] - begin; // tokens
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row = lane >> 2, quarter = lane & 3;
  // A lane has two tokens, eight apart, and of each 32 columns a quarter.
  const bool exists[2] = {row < left, row + 8 < left};
  const size_t further = (size_t)8 * 2 * chunks;
  gateUp += (size_t)(begin + row) * 2 * chunks + quarter;
  a += (size_t)row * chunks + quarter;
  out += (size_t)begin * (chunks + X);
  uint4* to = out + (size_t)row * (chunks + X) + quarter;

  uint4 gate[STEPS][2], up[STEPS][2];
  auto fetch = [&](int c) {
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const uint4* from = gateUp + h * further + c + 4 * s;
        gate[s][h] = exists[h] ? __ldcs(from) : make_uint4(0, 0, 0, 0);
        up[s][h] = exists[h] ? __ldcs(from + chunks) : make_uint4(0, 0, 0, 0);
      }
    }
  };
  float sum[2][4] = {};
  int c = warp * (UNIT / 8);
  if (c < chunks) fetch(c);
  for (; c < chunks; c += WARPS * (UNIT / 8)) {
    uint4 act[STEPS][2], b[STEPS][2];
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float x[8], y[8];
        widen(x, gate[s][h]);
        widen(y, up[s][h]);
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = x[i] * sigmoid(A::inner(x[i])) * y[i];
        act[s][h] = narrow(x);
        b[s][h] = __ldg(a + (size_t)8 * h * chunks + c + 4 * s);
      }
    }
    if (c + WARPS * (UNIT / 8) < chunks) fetch(c + WARPS * (UNIT / 8)); // while the products run
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        if (exists[h]) to[(size_t)8 * h * (chunks + X) + c + 4 * s] = act[s][h];
      }
      const u32 first[4] = {act[s][0].x, act[s][1].x, act[s][0].y, act[s][1].y};
      const u32 second[4] = {act[s][0].z, act[s][1].z, act[s][0].w, act[s][1].w};
#pragma unroll
      for (int n = 0; n < 2; n++) {
        multiply(sum[n], first, b[s][n].x, b[s][n].y);
        multiply(sum[n], second, b[s][n].z, b[s][n].w);
      }
    }
  }
#pragma unroll
  for (int n = 0; n < 2; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) sums[warp][row + i / 2 * 8][n * 8 + 2 * quarter + i % 2] = sum[n][i];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < min(TOKENS, left) * 8 * X; i += WARPS * 32) {
    const int token = i / (8 * X), column = i % (8 * X);
    u16 v = 0;
    if (column < RANK) {
      float total = 0;
#pragma unroll
      for (int w = 0; w < WARPS; w++) total += sums[w][token][column];
      v = (u16)pack(total, 0.f);
      low[(size_t)(begin + token) * RANK + column] = v;
    }
    ((u16*)(out + (size_t)token * (chunks + X) + chunks))[column] = v;
  }
}
