// The product of up to TILES*8 rows with a 4-bit weight on tensor cores. A warp takes 16 bytes' rows, two matrices of 8 lower
// and 8 upper outputs each, and all rows of x. Codes are decoded to bf16 numbers and what is missing to their float32 ones,
// two products each; the scale of a block of weights is applied to the sums over 64 inputs, so that no weight is rounded.
//
// The order of inputs within a product is free: a lane's 16 bytes, 16 neighbouring inputs, are four products' operands.
#pragma once
#include "product.cuh"

constexpr int ROWS_WARPS = 8, MATRICES = 2, SLICE = 512; // inputs of x in shared memory
constexpr int SLICE_STRIDE = SLICE + 8;                  // u16; so that eight lanes' 16 bytes lie in different banks

// x [T,I], codes u8 [R*I], the scales, low [T,n], tail [2R,n] -> out f32 [splits,T,2R], the sum of which over the splits is
// x Wᵀ + low tailᵀ.
// sizes = {R, I, n, log2(blocksize/64), type, group shift or -1, T, inputs of a split/256, splits}; grid {R/128, splits times
// row tiles}; dynamic shared memory: the table, then TILES*8 rows of SLICE_STRIDE.
template <int TILES>
__device__ __forceinline__ void multiplyRows(const u16* __restrict__ x, const uint4* __restrict__ codes, MaybeNestedScales scales,
                                             const u16* __restrict__ low, const u16* __restrict__ tail, const int* __restrict__ sizes,
                                             float* __restrict__ out, u16* memory) {
  uint2* table = (uint2*)memory;
  u16* slice = memory + 256 * TABLE_COPIES * sizeof(uint2) / sizeof(u16);
  const int R = sizes[0], I = sizes[1], n = sizes[2], blockShift = sizes[3], T = sizes[6], splits = sizes[8];
  const int lane = threadIdx.x & 31, g = lane / 4, t = lane % 4;
  const int split = blockIdx.y % splits, token = blockIdx.y / splits * TILES * 8; // the first of these rows
  const int blocks = I / 64, beginBlock = split * sizes[7] * 4, endBlock = min(blocks, beginBlock + sizes[7] * 4);
  const int first = (blockIdx.x * ROWS_WARPS + threadIdx.x / 32) * MATRICES * 8;
  fillTable(table, sizes[4], [](float lower, float upper) {
    const float l = rounded(lower), u = rounded(upper);
    return make_uint2(pack(l, u), pack(lower - l, upper - u));
  });
  const uint2* own = table + (lane & (TABLE_COPIES - 1));

  auto row = [&](int m) { return (u32)min(first + 8 * m + g, R - 1); }; // of bytes
  auto load = [&](int m, int block) {
    return block < endBlock ? __ldcs(codes + (row(m) * blocks + block) * 4 + t) : make_uint4(0, 0, 0, 0);
  };
  // Lane t of four fetches the scales of the t-th of four blocks.
  auto scale = [&](int m, int half, int block) {
    block += t;
    return block < endBlock ? scales(((row(m) + half * R) * blocks + block) >> blockShift) : 0.f;
  };

  float sum[MATRICES][TILES][4] = {}, next[MATRICES][2];
  uint4 q[2][MATRICES];
#pragma unroll
  for (int m = 0; m < MATRICES; m++) {
    next[m][0] = scale(m, 0, beginBlock), next[m][1] = scale(m, 1, beginBlock);
    q[0][m] = load(m, beginBlock), q[1][m] = load(m, beginBlock + 1);
  }
  for (int four = beginBlock; four < endBlock; four += 4) {
    const int inSlice = (four - beginBlock) * 64 % SLICE;
    if (inSlice == 0) {
      __syncthreads();
      for (int i = threadIdx.x; i < TILES * 8 * (SLICE / 8); i += blockDim.x) {
        const int r = i / (SLICE / 8), c = i % (SLICE / 8) * 8, column = four * 64 + c;
        const bool exists = token + r < T && column < I;
        copyAsync(shared(slice + r * SLICE_STRIDE + c), exists ? x + (size_t)(token + r) * I + column : x, exists);
      }
      awaitCopies();
      __syncthreads();
    }
    float now[MATRICES][2];
#pragma unroll
    for (int m = 0; m < MATRICES; m++) {
      now[m][0] = next[m][0], now[m][1] = next[m][1];
      next[m][0] = scale(m, 0, four + 4), next[m][1] = scale(m, 1, four + 4);
    }
#pragma unroll
    for (int b = 0; b < 4; b++) {
      uint4 v[TILES][2];
#pragma unroll
      for (int k = 0; k < TILES; k++) {
        const uint4* from = (const uint4*)(slice + (8 * k + g) * SLICE_STRIDE + inSlice + 64 * b + 16 * t);
        v[k][0] = from[0], v[k][1] = from[1];
      }
#pragma unroll
      for (int m = 0; m < MATRICES; m++) {
        const u32 words[4] = {q[b % 2][m].x, q[b % 2][m].y, q[b % 2][m].z, q[b % 2][m].w};
        q[b % 2][m] = load(m, four + b + 2);
        float part[TILES][4] = {};
#pragma unroll
        for (int j = 0; j < 4; j++) {
          uint2 e[4];
#pragma unroll
          for (int i = 0; i < 4; i++) e[i] = own[__byte_perm(words[j], 0, 0x4440 + i) * TABLE_COPIES];
          const u32 numbers[4] = {__byte_perm(e[0].x, e[1].x, 0x5410), __byte_perm(e[0].x, e[1].x, 0x7632),
                                  __byte_perm(e[2].x, e[3].x, 0x5410), __byte_perm(e[2].x, e[3].x, 0x7632)};
          const u32 missing[4] = {__byte_perm(e[0].y, e[1].y, 0x5410), __byte_perm(e[0].y, e[1].y, 0x7632),
                                  __byte_perm(e[2].y, e[3].y, 0x5410), __byte_perm(e[2].y, e[3].y, 0x7632)};
#pragma unroll
          for (int k = 0; k < TILES; k++) {
            const uint4 a = v[k][j / 2];
            const u32 b0 = j % 2 ? a.z : a.x, b1 = j % 2 ? a.w : a.y;
            multiply(part[k], missing, b0, b1);
            multiply(part[k], numbers, b0, b1);
          }
        }
        const int from = (lane & ~3) + b;
        const float lower = __shfl_sync(0xffffffffu, now[m][0], from), upper = __shfl_sync(0xffffffffu, now[m][1], from);
#pragma unroll
        for (int k = 0; k < TILES; k++) {
          sum[m][k][0] += lower * part[k][0], sum[m][k][1] += lower * part[k][1];
          sum[m][k][2] += upper * part[k][2], sum[m][k][3] += upper * part[k][3];
        }
      }
    }
  }
  if (split == 0) {
    for (int c = 2 * t; c < n; c += 16) { // n is a multiple of 16
#pragma unroll
      for (int k = 0; k < TILES; k++) {
        const u16* from = low + (size_t)min(token + 8 * k + g, T - 1) * n + c;
        const u32 b0 = *(const u32*)from, b1 = *(const u32*)(from + 8);
#pragma unroll
        for (int m = 0; m < MATRICES; m++) {
          const u16 *lower = tail + (size_t)row(m) * n + c, *upper = lower + (size_t)R * n;
          const u32 a[4] = {*(const u32*)lower, *(const u32*)upper, *(const u32*)(lower + 8), *(const u32*)(upper + 8)};
          multiply(sum[m][k], a, b0, b1);
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < MATRICES; m++) {
#pragma unroll
    for (int k = 0; k < TILES; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int r = first + 8 * m + g, to = token + 8 * k + 2 * t + i % 2;
        if (r < R && to < T) out[((size_t)split * T + to) * 2 * R + r + i / 2 * R] = sum[m][k][i];
      }
    }
  }
}
