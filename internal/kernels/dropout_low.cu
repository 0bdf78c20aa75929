// The thin products of what dropout keeps of an activation with adapters' A. A block takes 32 tokens and TILES times 8
// ranks; its warps share the columns, 32 at a time, and add up at the end, always in the same order.
//
// Both operands of the products come from memory as they lie there, 16 bytes a thread: in what order a product takes its
// columns does not matter, as long as it is the same for both.
#include "dropout.cuh"

constexpr int THREADS = 512, WARPS = THREADS / 32, TOKENS = 32, TILES = 8;

// x [T,8W] of which the first I columns count, a [N,I], keys u32 [adapters,T] -> low f32 [T,N] = kept(x) a^T.
// sizes = {T, I/8, W, N/8, ranks of an adapter/8, thresholds of the adapters}; grid (T/TOKENS, N/8/TILES), rounded up.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
loris_dropout_low(const uint4* __restrict__ x, const uint4* __restrict__ a, const u32* __restrict__ keys,
                  const int* __restrict__ sizes, float* __restrict__ low) {
  __shared__ float partial[WARPS][8][32];
  const int T = sizes[0], chunks = sizes[1], width = sizes[2], tiles = sizes[3], per = sizes[4];
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, group = lane >> 2, quad = lane & 3;
  const int first = blockIdx.y * TILES, count = min(TILES, tiles - first), token = blockIdx.x * TOKENS + group;
  const uint4 zero = make_uint4(0, 0, 0, 0);
  float sums[TILES][2][4] = {};
  for (int c = 4 * warp + quad; c - quad < chunks; c += 4 * WARPS) {
    const bool inside = c < chunks;
    uint4 v[4], m[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const int t = token + 8 * k;
      v[k] = inside && t < T ? x[(size_t)t * width + c] : zero;
    }
    int adapter = first / per, left = per - first % per; // tiles of the adapter from here on
#pragma unroll
    for (int tile = 0; tile < TILES; tile += 2) { // two at a time, which are of one adapter
      if (tile < count) {
        if (tile == 0 || left == 0) {
          if (left == 0) {
            adapter++;
            left = per;
          }
          const u32 thresholds = (u32)sizes[5 + adapter];
#pragma unroll
          for (int k = 0; k < 4; k++) {
            const int t = token + 8 * k;
            m[k] = t < T ? kept(v[k], keys[(size_t)adapter * T + t], c, thresholds) : zero;
          }
        }
        left -= 2;
#pragma unroll
        for (int j = 0; j < 2; j++) {
          const uint4 b = inside ? a[(size_t)(8 * (first + tile + j) + group) * chunks + c] : zero;
#pragma unroll
          for (int h = 0; h < 2; h++) {
            const u32 early[4] = {m[2 * h].x, m[2 * h + 1].x, m[2 * h].y, m[2 * h + 1].y};
            multiply(sums[tile + j][h], early, b.x, b.y);
            const u32 late[4] = {m[2 * h].z, m[2 * h + 1].z, m[2 * h].w, m[2 * h + 1].w};
            multiply(sums[tile + j][h], late, b.z, b.w);
          }
        }
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < TILES; tile++) {
    if (tile < count) {
#pragma unroll
      for (int i = 0; i < 8; i++) partial[warp][i][lane] = sums[tile][i >> 2][i & 3];
      __syncthreads();
      if (tid < 8 * 32) {
        const int i = tid >> 5, t = blockIdx.x * TOKENS + 16 * (i >> 2) + 8 * (i >> 1 & 1) + group;
        float sum = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += partial[w][i][lane];
        if (t < T) low[(size_t)t * 8 * tiles + 8 * (first + tile) + 2 * quad + (i & 1)] = sum;
      }
      __syncthreads();
    }
  }
}
