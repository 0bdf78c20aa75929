// What adapters behind dropout add to the gradient of their input: the sum over the adapters of kept(p A). A block takes 256
// columns and 64 tokens; a warp 32 of each at a time.
#include "dropout.cuh"

constexpr int THREADS = 256, COLUMNS = 32, TOKENS = 32, ROWS = 64;

// p [T,N], a transposed [I,N], keys u32 [adapters,T] -> out [T,I]; N is adapters times ranks of each.
// sizes = {T, I/8, adapters, ranks of an adapter/16, thresholds of the adapters}; grid (I/256, T/ROWS), rounded up.
//
// Ranks and columns are taken in an order in which a thread reads 8 bytes and writes 16: of a tile j of 8 columns, column i
// is the number 8 (i/2) + 2 j + i%2 of the warp's.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
loris_dropout_product(const uint2* __restrict__ p, const uint2* __restrict__ a, const u32* __restrict__ keys,
                      const int* __restrict__ sizes, uint4* __restrict__ out) {
  const int T = sizes[0], chunks = sizes[1], adapters = sizes[2], steps = sizes[3], quarters = adapters * steps * 4;
  const int lane = threadIdx.x & 31, group = lane >> 2, quad = lane & 3;
  const int base = blockIdx.x * (THREADS / 32 * COLUMNS) + (threadIdx.x >> 5) * COLUMNS; // column
  if (base >= 8 * chunks) return;
  const int chunk = (base >> 3) + quad, end = min(T, (int)(blockIdx.y + 1) * ROWS);
  const uint2 zero = make_uint2(0, 0);
  for (int begin = blockIdx.y * ROWS; begin < end; begin += TOKENS) {
    float total[2][4][4] = {};
    for (int adapter = 0; adapter < adapters; adapter++) {
      const u32 thresholds = (u32)sizes[4 + adapter];
      u32 own[4]; // keys, asked for before the products they are for
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int t = begin + 8 * i + group;
        own[i] = t < T ? keys[(size_t)adapter * T + t] : 0u;
      }
      float part[2][4][4] = {};
#pragma unroll 1 // ranks beyond 16 are rare
      for (int s = 0; s < steps; s++) {
        const int at = (adapter * steps + s) * 4 + quad;
        uint2 b[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int column = base + 8 * (group >> 1) + 2 * j + (group & 1);
          b[j] = column < 8 * chunks ? a[(size_t)column * quarters + at] : zero;
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const int t = begin + 16 * h + group;
          const uint2 upper = t < T ? p[(size_t)t * quarters + at] : zero;
          const uint2 lower = t + 8 < T ? p[(size_t)(t + 8) * quarters + at] : zero;
          const u32 f[4] = {upper.x, lower.x, upper.y, lower.y};
#pragma unroll
          for (int j = 0; j < 4; j++) multiply(part[h][j], f, b[j].x, b[j].y);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; i++) { // 8 rows each
        const int e = 2 * (i & 1);
        const u32 first = mix(own[i] + chunk);
        const u32 h[2] = {first, again(first)};
#pragma unroll
        for (int j = 0; j < 4; j++) addKept(total[i >> 1][j] + e, part[i >> 1][j] + e, draws(h[j >> 1], j & 1), thresholds);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int t = begin + 8 * i + group, e = 2 * (i & 1);
      if (t < T && chunk < chunks) {
        const float(*f)[4] = total[i >> 1];
        out[(size_t)t * chunks + chunk] = make_uint4(pack(f[0][e], f[0][e + 1]), pack(f[1][e], f[1][e + 1]),
                                                     pack(f[2][e], f[2][e + 1]), pack(f[3][e], f[3][e + 1]));
      }
    }
  }
}
