// The backward of a gated activation, with the four thin products that the adapters around it need: gate, up and d(act) are read once,
// and act, dgate and dup multiplied while they are in shared memory.
//
// A tile is ROWS tokens of COLUMNS columns of F, a stripe all tiles of the same columns. Every block, of eight warps, has an
// equal share of the tiles, stripe after stripe, so that none waits for another. Within a stripe, products over tokens (db, da)
// stay in registers to the end; the products over columns (dlow) are added up over blocks in memory.
//
// Shared memory has two stages. While a block works on the tile in one, the next is copied to the other; a thread turns the chunks
// that it copied into results in place.
#pragma once
#include "dropout.cuh"
#include "gated.cuh"

constexpr int COLUMNS = 128, ROWS = 32, RANK = 16, THREADS = 256;
constexpr int TILE = COLUMNS + 8, LOW = 2 * RANK + 8, DOWN = RANK + 8; // padded rows, free of bank conflicts
constexpr int CHUNKS = ROWS * COLUMNS / 8 / THREADS; // of a row of each tile that are a thread's
constexpr int LANES = COLUMNS / 8 / CHUNKS;          // threads that have a row, and from one of a thread's chunks to the next
// Where things begin in a stage: ACT is dact at first.
constexpr int GATE = 0, UP = GATE + ROWS * TILE, ACT = UP + ROWS * TILE;
constexpr int LOWS = ACT + ROWS * TILE, DOWNS = LOWS + ROWS * LOW, STAGE = DOWNS + ROWS * DOWN;
// And behind both: PARTS are four numbers f32 of each thread, BEHIND is there with dropout.
constexpr int B = 2 * STAGE, PARTS = B + COLUMNS * LOW, BEHIND = PARTS + THREADS * 8;

// Piece is what a block has of a stripe: that many tiles from one on. Its products over tokens are the share-th of the stripe's;
// behind the last are some unused, to be set to zero.
struct Piece {
  int stripe, tile, tiles, share, unused;
};

// What every kernel takes, in two parts: one with dropout has its operand a between them.
#define GATE_OPERANDS const uint4* __restrict__ gateUp, const uint4* __restrict__ dact, const uint4* __restrict__ b, const uint4* __restrict__ low, \
    const uint4* __restrict__ p, const u32* __restrict__ keys, const float* __restrict__ scale, const float* __restrict__ dscale, const float* zero
#define GATE_RESULTS const int* __restrict__ sizes, uint4* __restrict__ out, float* dlow, float* __restrict__ db, float* __restrict__ da
#define GATE_PARAMETERS GATE_OPERANDS, GATE_RESULTS
#define GATE_ARGUMENTS gateUp, dact, b, low, p, keys, scale, dscale, zero, sizes, out, dlow, db, da

// gateUp [T,2F], its rows times scale f32 [T] if scaled, dact [T,F], its rows times dscale f32 [T] if dscaled, b [2F,16] of gate over up, low [T,32] and p [T,16], see the Go function;
// zero f32 [T,32] is where dlow is. -> out [T,2F+8X] = [dgate | dup | 0], dlow f32 [T,32] += [dgate b | dup b], db f32 [shares,2F,16] = dgate^T low over dup^T low, da f32 [shares,F,16] = act^T p,
// both to be added up over shares, the most blocks that a stripe has. sizes = {F, T, shares, X, thresholds, scaled, dscaled}; grid of up to as many blocks as there are tiles.
//
// With dropout between act and the adapter behind it, keys u32 [T] and its a [16,F] are read: da is of what is kept of act, and to dact is
// added what is kept of p a. That is multiplied where dact lay and act will.
//
// SCALED and DROPPED are kernels of their own because of the registers that they take.
template <class A, bool SCALED, bool DROPPED>
__device__ __forceinline__ void gatePiece(const Piece piece, GATE_PARAMETERS, const uint4* __restrict__ a) {
  DYNAMIC_SHARED(tiles);
  const int F = sizes[0], X = sizes[3], chunks = F >> 3, outChunks = 2 * chunks + X;
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, first = piece.stripe * COLUMNS, begin = piece.tile * ROWS;
  int left = min(piece.tiles * ROWS, sizes[1] - begin); // tokens
  const u32 thresholds = (u32)sizes[4];
  const int row = tid / LANES, chunk = tid % LANES, column = (first >> 3) + chunk;
  const SharedAddress base = shared(tiles);

  // Pointers are those of this thread's first element. Those to what is copied run ahead.
  gateUp += (size_t)(begin + row) * 2 * chunks + column;
  dact += (size_t)(begin + row) * chunks + column;
  const SharedAddress tileTo = base + (row * TILE + chunk * 8) * 2;
  // The first threads copy low's rows, others p's.
  const bool forLow = tid < ROWS * 2 * RANK / 8;
  const int inThin = forLow ? tid : tid - ROWS * 2 * RANK / 8, thinRow = forLow ? inThin >> 2 : inThin >> 1;
  const uint4* thin = forLow ? low + (size_t)begin * (2 * RANK / 8) + inThin : p + (size_t)begin * (RANK / 8) + inThin;
  const SharedAddress thinTo = base + (forLow ? LOWS + thinRow * LOW + (inThin & 3) * 8 : DOWNS + thinRow * DOWN + (inThin & 1) * 8) * 2;
  // ask starts to copy the next ROWS tokens, of which the first left exist; the others count as zero.
  const auto ask = [&](int stage, int left) {
    if (left > 0) {
#pragma unroll
      for (int k = 0; k < CHUNKS; k++) {
        const SharedAddress to = tileTo + (stage + k * LANES * 8) * 2;
        copyAsync(to + GATE * 2, gateUp + k * LANES, row < left);
        copyAsync(to + UP * 2, gateUp + chunks + k * LANES, row < left);
        copyAsync(to + ACT * 2, dact + k * LANES, row < left);
      }
      if (thinRow < ROWS) copyAsync(thinTo + stage * 2, thin, thinRow < left);
      gateUp += ROWS * 2 * chunks;
      dact += ROWS * chunks;
      thin += ROWS * (forLow ? 2 * RANK / 8 : RANK / 8);
    }
    commitCopies();
  };
#pragma unroll
  for (int side = 0; side < 2; side++) { // COLUMNS rows of two chunks
    copyAsync(base + (B + (tid >> 1) * LOW + side * RANK + (tid & 1) * 8) * 2, b + (size_t)(side * F + first) * (RANK / 8) + tid, true);
  }
  if (DROPPED) copyAsync(base + (BEHIND + (tid >> 4) * TILE + (tid & 15) * 8) * 2, a + (size_t)(tid >> 4) * chunks + (first >> 3) + (tid & 15), true);
  ask(0, left);
  ask(STAGE, left - ROWS);

  out += (size_t)begin * outChunks;
  if (first == 0) {
    for (int i = tid; i < left * X; i += THREADS)
      out[(size_t)(i / X) * outChunks + 2 * chunks + i % X] = make_uint4(0, 0, 0, 0);
  }
  out += (size_t)row * outChunks + column;
  if (DROPPED) keys += begin;
  if (SCALED) scale += sizes[5] ? begin : 0, dscale += sizes[6] ? begin : 0;
  float sums[3][2][4] = {}; // of 16 columns of F by the rank: dgate^T low, dup^T low, act^T p

  // Where this lane's rows of the operands lie: li and lj number matrices' rows and matrices.
  const int li = lane & 7, lj = lane >> 3, half = (lj & 1) << 3, other = (lj >> 1) << 3;
  const SharedAddress tileT = base + ((li + other) * TILE + warp * 16 + half) * 2;
  const SharedAddress lowAt = base + (LOWS + (li + half) * LOW + other) * 2;
  const SharedAddress pAt = base + (DOWNS + (li + half) * DOWN + other) * 2;
  const SharedAddress behindAt = base + (BEHIND + (li + half) * TILE + warp * 16 + other) * 2;
  // For dlow, half of the warps take dgate, half dup, and each 16 tokens and half of the columns. Two neighbours exchange their
  // parts of the sums, so that each adds eight numbers of a row to memory.
  const int side = warp >> 2, tokens = (warp >> 1 & 1) * 16;
  const bool upper = warp & 1;
  const SharedAddress tileAt = base + ((side ? UP : GATE) + (tokens + li + half) * TILE + upper * (COLUMNS / 2) + other) * 2;
  const SharedAddress bAt = base + (B + (upper * (COLUMNS / 2) + li + half) * LOW + side * RANK + other) * 2;
  // A lane has two columns of a row. Lanes of neighbouring rows exchange one, so that what a warp adds at once are whole rows of
  // eight columns, and half as many as if each lane added its own.
  const bool odd = lane & 4;
  dlow += (size_t)(begin + tokens + (lane >> 2 & ~1)) * (2 * RANK) + side * RANK + upper * 8 + 2 * (lane & 3) + odd;

  for (int stage = 0; left > 0; left -= ROWS, stage = STAGE - stage) {
    awaitCopiesBut<1>();
    u16* own = tiles + stage + row * TILE + chunk * 8;
    uint4 d16[CHUNKS];
    if (DROPPED) { // p a
#pragma unroll
      for (int k = 0; k < CHUNKS; k++) d16[k] = *(const uint4*)(own + ACT + k * LANES * 8);
      __syncthreads();
      u32 m[4];
      matricesTransposed(m, behindAt);
#pragma unroll
      for (int k = 0; k < ROWS / 16; k++) {
        u32 rows[4];
        matrices(rows, pAt + (stage + k * 16 * DOWN) * 2);
        float sum[2][4] = {};
#pragma unroll
        for (int n = 0; n < 2; n++) {
          multiply(sum[n], rows, m[2 * n], m[2 * n + 1]);
          u32* to = (u32*)(tiles + stage + ACT + (k * 16 + (lane >> 2)) * TILE + warp * 16 + n * 8 + 2 * (lane & 3));
          to[0] = pack(sum[n][0], sum[n][1]);
          to[8 * TILE / 2] = pack(sum[n][2], sum[n][3]);
        }
      }
      __syncthreads();
    }
#pragma unroll DROPPED ? CHUNKS : 1 // for the registers
    for (int k = 0; k < CHUNKS; k++) {
      u16* at = own + k * LANES * 8;
      float gate[8], up[8], d[8], act[8];
      widen(gate, *(const uint4*)(at + GATE));
      widen(up, *(const uint4*)(at + UP));
      widen(d, DROPPED ? d16[k] : *(const uint4*)(at + ACT));
      if (SCALED) { // by powers of two
        const float s = sizes[5] && row < left ? scale[row] : 1.f, ds = sizes[6] && row < left ? dscale[row] : 1.f;
#pragma unroll
        for (int i = 0; i < 8; i++) gate[i] *= s, up[i] *= s, d[i] *= ds;
      }
      uint4 mask;
      if (DROPPED) {
        mask = masks(row < left ? keys[row] : 0u, column + k * LANES, thresholds);
        float added[8];
        widen(added, *(const uint4*)(at + ACT) & mask);
#pragma unroll
        for (int i = 0; i < 8; i++) d[i] += added[i];
      }
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float s = sigmoid(A::inner(gate[i])), open = gate[i] * s, dup = d[i] * open;
        act[i] = open * up[i];
        gate[i] = d[i] * up[i] * s * (1.f + gate[i] * (1.f - s) * A::slope(gate[i]));
        up[i] = dup;
      }
      const uint4 dgate = narrow(gate), dup = narrow(up);
      if (row < left) {
        out[k * LANES] = dgate;
        out[chunks + k * LANES] = dup;
      }
      *(uint4*)(at + GATE) = dgate;
      *(uint4*)(at + UP) = dup;
      const uint4 behind = narrow(act);
      *(uint4*)(at + ACT) = DROPPED ? behind & mask : behind;
    }
    out += ROWS * outChunks;
    if (DROPPED) keys += ROWS;
    if (SCALED) scale += sizes[5] ? ROWS : 0, dscale += sizes[6] ? ROWS : 0;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < ROWS / 16; k++) {
      u32 a[4], m[4];
      const SharedAddress lows = lowAt + (stage + k * 16 * LOW) * 2, rows = tileT + (stage + k * 16 * TILE) * 2;
      matricesTransposed(m, lows);
      matricesTransposed(a, rows + GATE * 2);
      multiply(sums[0][0], a, m[0], m[1]);
      multiply(sums[0][1], a, m[2], m[3]);
      matricesTransposed(m, lows + RANK * 2);
      matricesTransposed(a, rows + UP * 2);
      multiply(sums[1][0], a, m[0], m[1]);
      multiply(sums[1][1], a, m[2], m[3]);
      matricesTransposed(m, pAt + (stage + k * 16 * DOWN) * 2);
      matricesTransposed(a, rows + ACT * 2);
      multiply(sums[2][0], a, m[0], m[1]);
      multiply(sums[2][1], a, m[2], m[3]);
    }
    float partial[2][4] = {};
#pragma unroll
    for (int k = 0; k < COLUMNS / 2 / 16; k++) {
      u32 a[4], m[4];
      matrices(a, tileAt + (stage + k * 16) * 2);
      matricesTransposed(m, bAt + k * 16 * LOW * 2);
      multiply(partial[0], a, m[0], m[1]);
      multiply(partial[1], a, m[2], m[3]);
    }
    float4* parts = (float4*)(tiles + PARTS);
    parts[tid] = upper ? make_float4(partial[0][0], partial[0][1], partial[0][2], partial[0][3])
                       : make_float4(partial[1][0], partial[1][1], partial[1][2], partial[1][3]);
    float sum[4];
#pragma unroll
    for (int i = 0; i < 4; i++) sum[i] = upper ? partial[1][i] : partial[0][i];
    __syncthreads();
    ask(stage, left - 2 * ROWS);
    const float4 part = parts[tid ^ 32];
    sum[0] += part.x, sum[1] += part.y, sum[2] += part.z, sum[3] += part.w;
#pragma unroll
    for (int h = 0; h < 2; h++) { // upper and lower eight rows
      const float even = sum[2 * h], other = sum[2 * h + 1];
      const float neighbour = __shfl_xor_sync(0xffffffffu, odd ? even : other, 4);
      const int t = tokens + (lane >> 2 & ~1) + 8 * h;
      float* to = dlow + h * 8 * 2 * RANK;
      if (t < left) atomicAdd(to, odd ? neighbour : even);
      if (t + 1 < left) atomicAdd(to + 2 * RANK, odd ? other : neighbour);
    }
    dlow += ROWS * (2 * RANK);
  }
#pragma unroll
  for (int m = 0; m < 3; m++) {
#pragma unroll
    for (int n = 0; n < 2; n++) {
      const int f = first + warp * 16 + (lane >> 2), r = n * 8 + 2 * (lane & 3);
      const size_t share = (size_t)(m < 2 ? 2 * F : F) * RANK; // elements
      float* to = (m < 2 ? db + (size_t)(m * F + f) * RANK : da + (size_t)f * RANK) + piece.share * share + r;
      *(float2*)to = make_float2(sums[m][n][0], sums[m][n][1]);
      *(float2*)(to + 8 * RANK) = make_float2(sums[m][n][2], sums[m][n][3]);
      for (int i = 0; i < piece.unused; i++) {
        to += share;
        *(float2*)to = *(float2*)(to + 8 * RANK) = make_float2(0.f, 0.f);
      }
    }
  }
}

template <class A, bool SCALED = false, bool DROPPED = false>
__device__ __forceinline__ void gateBackward(GATE_PARAMETERS, const uint4* __restrict__ a = nullptr) {
  const int inStripe = (sizes[1] + ROWS - 1) / ROWS, all = sizes[0] / COLUMNS * inStripe;
  const int least = all / gridDim.x, more = all % gridDim.x, block = blockIdx.x; // the first blocks have one tile more
  int at = block * least + min(block, more);
  for (const int end = at + least + (block < more); at < end;) {
    Piece piece;
    piece.stripe = at / inStripe, piece.tile = at % inStripe, piece.tiles = min(end - at, inStripe - piece.tile);
    const int start = at - piece.tile; // of the stripe, and the block that has it:
    const int starts = start < more * (least + 1) ? start / (least + 1) : (start - more) / least;
    piece.share = block - starts;
    piece.unused = piece.tile + piece.tiles < inStripe ? 0 : sizes[2] - 1 - piece.share;
    gatePiece<A, SCALED, DROPPED>(piece, GATE_ARGUMENTS, a);
    at += piece.tiles;
  }
}
