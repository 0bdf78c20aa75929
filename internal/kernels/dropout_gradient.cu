// The gradient of adapters' A behind dropout: kept(x)^T p. A block owns COLUMNS columns of x and UNITS times 16 ranks, and
// walks over its share of the tokens, ROWS at a time; eight warps of 16 columns each. x is read once for all its adapters.
#include "dropout.cuh"

constexpr int COLUMNS = 128, ROWS = 64, THREADS = 256, UNITS = 4;
constexpr int TILE = COLUMNS + 8, FACTOR = 16 * UNITS + 8; // padded rows, free of bank conflicts
constexpr int HELD = ROWS * COLUMNS / 8 / THREADS;         // chunks a thread holds of a tile
constexpr int FACTORS = ROWS * TILE;                       // where p is in shared memory, for this tile and the next

// p [T,N], x [T,8W] of which the first I columns count, keys u32 [adapters,T] -> da f32 [splits,I,N].
// sizes = {T, I/8, W, N/8, ranks of an adapter/8, tokens for a split (a multiple of ROWS), splits, thresholds};
// grid (I/COLUMNS, splits times N/16/UNITS), rounded up.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
loris_dropout_gradient(const uint4* __restrict__ p, const uint4* __restrict__ x, const u32* __restrict__ keys,
                       const int* __restrict__ sizes, float* __restrict__ da) {
  DYNAMIC_SHARED(tiles);
  const int T = sizes[0], chunks = sizes[1], width = sizes[2], N = 8 * sizes[3], per = sizes[4] / 2, splits = sizes[6];
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  const int split = blockIdx.y % splits, first = blockIdx.y / splits * UNITS, count = min(UNITS, N / 16 - first);
  const int begin = split * sizes[5], end = min(T, begin + sizes[5]);
  const int row = tid >> 4, column = blockIdx.x * (COLUMNS / 8) + (tid & 15); // of this thread's first chunk
  const uint4 zero = make_uint4(0, 0, 0, 0);
  float sums[UNITS][2][4] = {};
  uint4 held[HELD], next[HELD];
#pragma unroll
  for (int k = 0; k < HELD; k++) {
    const int t = begin + row + 16 * k;
    next[k] = t < end && column < chunks ? x[(size_t)t * width + column] : zero;
  }
  // Where this lane's rows of the operands lie, as in swiglu_backward.cu.
  const int li = lane & 7, lj = lane >> 3, half = (lj & 1) << 3, other = (lj >> 1) << 3;
  const SharedAddress base = shared(tiles);
  const SharedAddress tileAt = base + ((li + other) * TILE + warp * 16 + half) * 2;
  const SharedAddress factorAt = base + (FACTORS + (li + half) * FACTOR + other) * 2;

  const auto ask = [&](int from) { // for p's rows from there on
    const int to = FACTORS + (from - begin) / ROWS % 2 * ROWS * FACTOR;
    for (int i = tid; i < ROWS * 2 * count; i += THREADS) {
      const int t = i / (2 * count), piece = i - t * 2 * count;
      const bool exists = from + t < end;
      copyAsync(base + (to + t * FACTOR + piece * 8) * 2, p + (size_t)(exists ? from + t : 0) * (N / 8) + 2 * first + piece, exists);
    }
  };

  ask(begin);
  for (int from = begin; from < end; from += ROWS) {
    const SharedAddress factors = factorAt + (from - begin) / ROWS % 2 * ROWS * FACTOR * 2;
#pragma unroll
    for (int k = 0; k < HELD; k++) {
      held[k] = next[k];
      const int t = from + ROWS + row + 16 * k;
      next[k] = t < end && column < chunks ? x[(size_t)t * width + column] : zero;
    }
    awaitCopies();
    int adapter = first / per, left = per - first % per; // units of the adapter from here on
#pragma unroll
    for (int unit = 0; unit < UNITS; unit++) {
      if (unit < count) {
        if (unit == 0 || left == 0) {
          if (left == 0) {
            adapter++;
            left = per;
            __syncthreads(); // nobody needs the adapter before it any more
          }
          const u32 thresholds = (u32)sizes[7 + adapter];
#pragma unroll
          for (int k = 0; k < HELD; k++) {
            const int t = from + row + 16 * k;
            const u32 key = t < end ? keys[(size_t)adapter * T + t] : 0u;
            *(uint4*)(tiles + (row + 16 * k) * TILE + (tid & 15) * 8) = kept(held[k], key, column, thresholds);
          }
          __syncthreads();
          if (unit == 0) ask(from + ROWS);
        }
        left--;
#pragma unroll
        for (int k = 0; k < ROWS / 16; k++) {
          u32 a[4], m[4];
          matricesTransposed(m, factors + k * 16 * FACTOR * 2 + unit * 32);
          matricesTransposed(a, tileAt + k * 16 * TILE * 2);
          multiply(sums[unit][0], a, m[0], m[1]);
          multiply(sums[unit][1], a, m[2], m[3]);
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int unit = 0; unit < UNITS; unit++) {
    if (unit < count) {
#pragma unroll
      for (int n = 0; n < 2; n++) {
        const int c = blockIdx.x * COLUMNS + warp * 16 + (lane >> 2);
        float* to = da + ((size_t)split * 8 * chunks + c) * N + 16 * (first + unit) + 8 * n + 2 * (lane & 3);
        if (c < 8 * chunks) *(float2*)to = make_float2(sums[unit][n][0], sums[unit][n][1]);
        if (c + 8 < 8 * chunks) *(float2*)(to + (size_t)8 * N) = make_float2(sums[unit][n][2], sums[unit][n][3]);
      }
    }
  }
}
