// What adapters behind dropout add to the gradient of their input: the sum over the adapters of kept(p A). A block takes 128
// columns and ROWS tokens; a warp 32 columns, and 16 tokens at a time.
//
// Ranks and columns are taken in an order in which a thread reads 8 bytes and writes 16: of a tile j of 8 columns, column i
// is the number 8 (i/2) + 2 j + i%2 of the warp's.
#include "dropout.cuh"

constexpr int THREADS = 128, COLUMNS = 32, TOKENS = 16, ROWS = 64;

// Factors are p and A, of which a thread takes what its lane has part in; units are 16 ranks.
struct Factors {
  const uint2 *p, *a; // p [T,N], a transposed [I,N]
  int T, I, quarters, column, group, quad;

  __device__ __forceinline__ void columns(uint2* b, int unit) const {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int i = column + 8 * (group >> 1) + 2 * j + (group & 1);
      b[j] = i < I ? a[(size_t)i * quarters + 4 * unit + quad] : make_uint2(0, 0);
    }
  }

  // add is part += p A for the tokens from begin on and a unit, of which b are the columns.
  __device__ __forceinline__ void add(float (*part)[4], int begin, int unit, const uint2* b) const {
    const int t = begin + group, at = 4 * unit + quad;
    const uint2 upper = t < T ? p[(size_t)t * quarters + at] : make_uint2(0, 0);
    const uint2 lower = t + 8 < T ? p[(size_t)(t + 8) * quarters + at] : make_uint2(0, 0);
    const u32 f[4] = {upper.x, lower.x, upper.y, lower.y};
#pragma unroll
    for (int j = 0; j < 4; j++) multiply(part[j], f, b[j].x, b[j].y);
  }
};

// walk goes through the block's tokens. Of HELD adapters of one unit each, A stays in registers; 0: any others.
template <int HELD>
__device__ __forceinline__ void walk(const Factors& f, const u32* keys, const int* sizes, uint4* out) {
  const int chunks = f.I / 8, adapters = HELD ? HELD : sizes[2], units = HELD ? 1 : sizes[3];
  const int chunk = f.column / 8 + f.quad, end = min(f.T, (int)(blockIdx.y + 1) * ROWS);
  uint2 b[HELD ? HELD : 1][4];
#pragma unroll
  for (int i = 0; i < HELD; i++) f.columns(b[i], i);
  for (int begin = blockIdx.y * ROWS; begin < end; begin += TOKENS) {
    float total[4][4] = {};
#pragma unroll
    for (int adapter = 0; adapter < adapters; adapter++) {
      u32 own[2]; // keys, asked for before the products they are for
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int t = begin + 8 * i + f.group;
        own[i] = t < f.T ? keys[(size_t)adapter * f.T + t] : 0u;
      }
      float part[4][4] = {};
      if (HELD) {
        f.add(part, begin, adapter, b[adapter]);
      } else {
#pragma unroll 1
        for (int unit = adapter * units; unit < (adapter + 1) * units; unit++) {
          f.columns(b[0], unit);
          f.add(part, begin, unit, b[0]);
        }
      }
      const u32 thresholds = (u32)sizes[4 + adapter];
#pragma unroll
      for (int i = 0; i < 2; i++) { // 8 rows each
        const u32 first = mix(own[i] + chunk);
        const u32 h[2] = {first, again(first)};
#pragma unroll
        for (int j = 0; j < 4; j++) addKept(total[j] + 2 * i, part[j] + 2 * i, draws(h[j >> 1], j & 1), thresholds);
      }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int t = begin + 8 * i + f.group, e = 2 * i;
      if (t < f.T && chunk < chunks) {
        out[(size_t)t * chunks + chunk] = make_uint4(pack(total[0][e], total[0][e + 1]), pack(total[1][e], total[1][e + 1]),
                                                     pack(total[2][e], total[2][e + 1]), pack(total[3][e], total[3][e + 1]));
      }
    }
  }
}

// p [T,N], a transposed [I,N], keys u32 [adapters,T] -> out [T,I]; N is adapters times ranks of each.
// sizes = {T, I/8, adapters, ranks of an adapter/16, thresholds of the adapters}; grid (I/128, T/ROWS), rounded up.
extern "C" __global__ void __launch_bounds__(THREADS, 5)
loris_dropout_product(const uint2* __restrict__ p, const uint2* __restrict__ a, const u32* __restrict__ keys,
                      const int* __restrict__ sizes, uint4* __restrict__ out) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, adapters = sizes[2], units = sizes[3];
  const Factors f = {p, a, sizes[0], 8 * sizes[1], adapters * units * 4, ((int)blockIdx.x * (THREADS / 32) + warp) * COLUMNS, lane >> 2, lane & 3};
  if (f.column >= f.I) return;
  switch (units == 1 ? adapters : 0) {
    case 1: return walk<1>(f, keys, sizes, out);
    case 2: return walk<2>(f, keys, sizes, out);
    case 3: return walk<3>(f, keys, sizes, out);
  }
  walk<0>(f, keys, sizes, out);
}
