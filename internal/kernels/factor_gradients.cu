// The two thin products that the gradient dy behind a frozen weight has with adapters: p = dy b and db = dy^T low. dy is read
// once and multiplied both ways while it is in shared memory.
//
// Stripes are COLUMNS columns of dy that stand next to one adapter's b; the last of an adapter may be narrower. A block has a
// stripe and a group of the tokens, ROWS of which are a tile. Its products over tokens stay in registers to the end, those over
// columns are of one tile. Both are parts of sums that loris_factor_sums adds up, in a fixed order.
//
// Shared memory has STAGES of tiles: while a block works on one, the next ones are copied.
#include "device.cuh"

constexpr int COLUMNS = 256, ROWS = 32, RANK = 16, THREADS = 256, STAGES = 4, FACTORS = 3;
constexpr int TILE = COLUMNS + 8, LOW = RANK + 8; // padded rows, free of bank conflicts
constexpr int LOWS = ROWS * TILE, STAGE = LOWS + ROWS * LOW;
constexpr int B = STAGES * STAGE, PARTS = B + COLUMNS * LOW; // behind the stages; PARTS are eight numbers f32 of each thread
constexpr int CHUNKS = ROWS * COLUMNS / 8 / THREADS;         // of a tile that a thread copies

// dy [T,8W], low [T,N], factors f32 [rows,R], R 8 or 16 -> p f32 [stripes,T,16], db f32 [groups,O,16], whose rows are dy's columns.
// sizes = {T, W, O, N, tokens of a group (a multiple of ROWS), then for each factor: first column, rows, R, first column of low,
// scale}; a factor that is not there has no rows. Grid (stripes, groups).
extern "C" __global__ void __launch_bounds__(THREADS, 2)
loris_factor_gradients(const uint4* __restrict__ dy, const u16* __restrict__ low, const float* __restrict__ b0, const float* __restrict__ b1,
                       const float* __restrict__ b2, const int* __restrict__ sizes, float* __restrict__ p, float* __restrict__ db) {
  DYNAMIC_SHARED(tiles);
  const int T = sizes[0], W = sizes[1], N = sizes[3];
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  int stripe = blockIdx.x, factor = 0; // of the factor
  for (; factor < FACTORS - 1; factor++) {
    const int stripes = (sizes[6 + 5 * factor] + COLUMNS - 1) / COLUMNS;
    if (stripe < stripes) break;
    stripe -= stripes;
  }
  const int* own = sizes + 5 + 5 * factor;
  const int first = own[0] + stripe * COLUMNS, width = min(COLUMNS, own[1] - stripe * COLUMNS), R = own[2];
  const int begin = blockIdx.y * sizes[4];
  int left = min(sizes[4], T - begin); // tokens
  const SharedAddress base = shared(tiles);

  // A thread copies chunks of one column, ROWS/CHUNKS rows apart. Pointers run ahead.
  constexpr int BETWEEN = ROWS / CHUNKS;
  const int row = tid / (COLUMNS / 8), chunk = tid % (COLUMNS / 8);
  const bool inside = chunk * 8 < width;
  dy += (size_t)(begin + row) * W + first / 8 + (inside ? chunk : 0);
  const SharedAddress tileTo = base + (row * TILE + chunk * 8) * 2;
  const int lowRow = tid >> 1, lowChunk = tid & 1;
  const bool lowInside = lowChunk * 8 < R;
  low += (size_t)(begin + lowRow) * N + own[3] + (lowInside ? lowChunk * 8 : 0);
  const SharedAddress lowTo = base + (LOWS + lowRow * LOW + lowChunk * 8) * 2;
  // ask starts to copy the next tile, of which the first left tokens exist; the others count as zero.
  const auto ask = [&](int stage, int left) {
    if (left > 0) {
#pragma unroll
      for (int k = 0; k < CHUNKS; k++) {
        const bool exists = inside && row + k * BETWEEN < left;
        copyAsync(tileTo + (stage * STAGE + k * BETWEEN * TILE) * 2, exists ? dy + (size_t)k * BETWEEN * W : dy, exists);
      }
      if (lowRow < ROWS) copyAsync(lowTo + stage * STAGE * 2, low, lowInside && lowRow < left);
      dy += (size_t)ROWS * W;
      low += ROWS * N;
    }
    commitCopies();
  };
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) ask(s, left - s * ROWS);
  { // a row of b is a thread's
    const float* from = (factor == 0 ? b0 : factor == 1 ? b1 : b2) + ((size_t)stripe * COLUMNS + tid) * R;
    const float scale = __int_as_float(own[4]);
    uint4* to = (uint4*)(tiles + B + tid * LOW);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float f[8] = {};
      if (tid < width && 8 * h < R) {
        const float4 x = *(const float4*)(from + 8 * h), y = *(const float4*)(from + 8 * h + 4);
        f[0] = x.x * scale, f[1] = x.y * scale, f[2] = x.z * scale, f[3] = x.w * scale;
        f[4] = y.x * scale, f[5] = y.y * scale, f[6] = y.z * scale, f[7] = y.w * scale;
      }
      to[h] = narrow(f);
    }
  }

  // Where this lane's rows of the operands lie, as in gated_backward.cuh. For db a warp has 32 columns; for p 16 tokens and a
  // quarter of the columns.
  const int li = lane & 7, lj = lane >> 3, half = (lj & 1) << 3, other = (lj >> 1) << 3;
  const int upper = warp & 1, quarter = warp >> 1;
  const SharedAddress tileT = base + ((li + other) * TILE + warp * 32 + half) * 2;
  const SharedAddress lowAt = base + (LOWS + (li + half) * LOW + other) * 2;
  const SharedAddress tileAt = base + ((upper * 16 + li + half) * TILE + quarter * (COLUMNS / 4) + other) * 2;
  const SharedAddress bAt = base + (B + (quarter * (COLUMNS / 4) + li + half) * LOW + other) * 2;
  float* parts = (float*)(tiles + PARTS);
  p += ((size_t)blockIdx.x * T + begin) * RANK;
  float sums[2][2][4] = {};

  for (int stage = 0; left > 0; left -= ROWS, stage = (stage + 1) % STAGES) {
    awaitCopiesBut<STAGES - 2>();
    __syncthreads();
    ask((stage + STAGES - 1) % STAGES, left - (STAGES - 1) * ROWS);
    const SharedAddress at = stage * STAGE * 2;
    float partial[2][4] = {};
#pragma unroll
    for (int k = 0; k < COLUMNS / 4 / 16; k++) {
      u32 a[4], m[4];
      matrices(a, tileAt + at + k * 16 * 2);
      matricesTransposed(m, bAt + k * 16 * LOW * 2);
      multiply(partial[0], a, m[0], m[1]);
      multiply(partial[1], a, m[2], m[3]);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) parts[((quarter * 2 + upper) * 8 + i) * 32 + lane] = partial[i >> 2][i & 3];
#pragma unroll
    for (int k = 0; k < ROWS / 16; k++) {
      u32 a[4], m[4];
      matricesTransposed(m, lowAt + at + k * 16 * LOW * 2);
#pragma unroll
      for (int c = 0; c < 2; c++) {
        matricesTransposed(a, tileT + at + (k * 16 * TILE + c * 16) * 2);
        multiply(sums[c][0], a, m[0], m[1]);
        multiply(sums[c][1], a, m[2], m[3]);
      }
    }
    __syncthreads();
    // A thread adds up two neighbouring ranks of a token, the pair-th that a lane of the products has.
    const int pair = warp & 3, t = (warp >> 2) * 16 + (lane >> 2) + 8 * (pair & 1);
    float2 sum = make_float2(0.f, 0.f);
#pragma unroll
    for (int q = 0; q < 4; q++) {
      const float* from = parts + ((q * 2 + (warp >> 2)) * 8 + 2 * pair) * 32 + lane;
      sum.x += from[0], sum.y += from[32];
    }
    if (t < left) *(float2*)(p + t * RANK + (pair >> 1) * 8 + 2 * (lane & 3)) = sum;
    p += ROWS * RANK;
  }
  db += ((size_t)blockIdx.y * sizes[2] + first) * RANK;
#pragma unroll
  for (int c = 0; c < 2; c++) {
#pragma unroll
    for (int n = 0; n < 2; n++) {
      const int column = warp * 32 + c * 16 + (lane >> 2);
      float* to = db + column * RANK + n * 8 + 2 * (lane & 3);
      if (column < width) *(float2*)to = make_float2(sums[c][n][0], sums[c][n][1]);
      if (column + 8 < width) *(float2*)(to + 8 * RANK) = make_float2(sums[c][n][2], sums[c][n][3]);
    }
  }
}
