// An activation together with the product that an adapter behind it makes of it, which then need not read it again: of a source, whose
// columns are made of INPUTS columns F apart.
//
// A block takes TOKENS tokens and all of F, of which its warps take turns, UNIT columns each. What a lane reads, eight neighbouring
// columns, are the operands of two products: the order of columns within a product is free. The warps' sums are added up in
// a fixed order.
#pragma once
#include "gated.cuh"

constexpr int TOKENS = 16, WARPS = 16, RANK = 16, STEPS = 2, UNIT = STEPS * 32;

// Itself is an activation as it is.
struct Itself {
  static constexpr int INPUTS = 1;
  static __device__ __forceinline__ uint4 of(const uint4* in) { return in[0]; }
};

// GatedBy is act(gate)*up.
template <class A>
struct GatedBy {
  static constexpr int INPUTS = 2;
  static __device__ __forceinline__ uint4 of(const uint4* in) {
    float gate[8], up[8];
    widen(gate, in[0]);
    widen(up, in[1]);
#pragma unroll
    for (int i = 0; i < 8; i++) gate[i] = act<A>(gate[i]) * up[i];
    return narrow(gate);
  }
};

// in [T,INPUTS*F], a [16,F] -> out [T,F+8X] = [S(in) | low | 0], low [T,16] = S(in) a^T, rounded once.
// sizes = {F/8, X, T}; F is a multiple of UNIT, X at least 2; grid T/TOKENS.
template <class S>
__device__ __forceinline__ void lowOf(const uint4* __restrict__ in, const uint4* __restrict__ a, const int* __restrict__ sizes,
                                      uint4* __restrict__ out, u16* __restrict__ low) {
  __shared__ float sums[WARPS][TOKENS][RANK];
  const int chunks = sizes[0], X = sizes[1], begin = blockIdx.x * TOKENS, left = sizes[2] - begin; // tokens
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row = lane >> 2, quarter = lane & 3;
  // A lane has two tokens, eight apart, and of each 32 columns a quarter.
  const bool exists[2] = {row < left, row + 8 < left};
  const size_t further = (size_t)8 * S::INPUTS * chunks;
  in += (size_t)(begin + row) * S::INPUTS * chunks + quarter;
  a += (size_t)row * chunks + quarter;
  out += (size_t)begin * (chunks + X);
  uint4* to = out + (size_t)row * (chunks + X) + quarter;

  uint4 next[STEPS][2][S::INPUTS];
  auto fetch = [&](int c) {
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const uint4* from = in + h * further + c + 4 * s;
#pragma unroll
        for (int i = 0; i < S::INPUTS; i++) next[s][h][i] = exists[h] ? __ldcs(from + i * chunks) : make_uint4(0, 0, 0, 0);
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
        act[s][h] = S::of(next[s][h]);
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
