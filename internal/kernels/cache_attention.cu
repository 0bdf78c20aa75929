// Attention of one new token of each row over the keys and values in its cache, which take in the token's own. A block
// takes a key head of a row and a part of the cache, and for every HEADS query heads that share the key head goes through
// the part twice: for the scores, kept in shared memory, and for the values.
#include "device.cuh"

constexpr int HEADS = 4, CACHE_WARPS = 8, AHEAD = 4; // keys that a lane reads at once

// q [B,H,D], k and v [B,K,D], where they begin in rows of a tensor, position i32, start i32 [B] -> out [B,H,D], or of each
// split f32 parts [splits,B,H,D], not yet divided by their sums, and stats f32 [splits,B,H,2], the largest score and the sum; keys
// and values [B,C,K,D] are changed in place. cos and sin f32 [B,D/2] rotate q and k first, if that is asked for. Seen are the
// keys from start to position, of them the last `window` if that is not 0. sizes = {H, K, D, C, keys of a split, splits, window,
// bits of the scale, bits of the soft cap or 0, log2 of lanes of a key, rotate, chunks before k and before v in their rows,
// chunks of a row of q, of k and v}; grid {B*K, splits}; dynamic shared memory: f32 [HEADS][keys of a split],
// [CACHE_WARPS][HEADS][D].
extern "C" __global__ void __launch_bounds__(32 * CACHE_WARPS)
loris_cache_attention(const uint4* __restrict__ q, const uint4* __restrict__ k, const uint4* __restrict__ v, const uint4* oldKeys,
                      const uint4* oldValues, const int* __restrict__ positions, const int* __restrict__ starts,
                      const float* __restrict__ cos, const float* __restrict__ sin, const int* __restrict__ sizes,
                      u16* __restrict__ out, uint4* keys, uint4* values, float* __restrict__ parts, float* __restrict__ stats) {
  DYNAMIC_SHARED(memory);
  __shared__ float top[HEADS], total[HEADS];
  __shared__ uint4 newKey[32];
  const int H = sizes[0], K = sizes[1], D = sizes[2], capacity = sizes[3], per = sizes[4], splits = sizes[5], window = sizes[6];
  const float scale = __int_as_float(sizes[7]), cap = __int_as_float(sizes[8]);
  const int lanes = 1 << sizes[9], chunks = D / 8, group = H / K;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, c = lane & (lanes - 1), step = CACHE_WARPS * 32 / lanes;
  const int b = blockIdx.x / K, kvHead = blockIdx.x % K, split = blockIdx.y, position = positions[0];
  float *scores = (float*)memory, *sums = scores + HEADS * per;

  int from = starts[b];
  if (window && from <= position - window) from = position - window + 1;
  if (from < split * per) from = split * per;
  const int to = min(position + 1, (split + 1) * per);
  // rotated is a chunk of a head: half of its features are real parts, then come the imaginary ones.
  auto rotated = [&](const uint4* head, int chunk) {
    const int half = chunks / 2, first = chunk < half ? chunk : chunk - half;
    if (!sizes[10]) return head[chunk];
    float re[8], im[8];
    widen(re, head[first]);
    widen(im, head[first + half]);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const size_t angle = (size_t)b * (D / 2) + 8 * first + i;
      const float c = cos[angle], s = sin[angle];
      re[i] = chunk < half ? re[i] * c - im[i] * s : im[i] * c + re[i] * s;
    }
    return narrow(re);
  };
  const uint4* newValue = v + (size_t)b * sizes[14] + sizes[12] + kvHead * chunks;
  auto at = [&](int key) { return (((size_t)b * capacity + key) * K + kvHead) * chunks; };
  if (position / per == split && threadIdx.x < chunks) {
    const uint4 key = rotated(k + (size_t)b * sizes[14] + sizes[11] + kvHead * chunks, threadIdx.x);
    newKey[threadIdx.x] = keys[at(position) + threadIdx.x] = key;
    values[at(position) + threadIdx.x] = newValue[threadIdx.x];
  }
  __syncthreads();
  const int mine = from + warp * (32 / lanes) + lane / lanes;
  auto load = [&](const uint4* cache, const uint4* fresh, int key) {
    if (key >= to || c >= chunks) return make_uint4(0, 0, 0, 0);
    return key == position ? fresh[c] : cache[at(key) + c];
  };

  for (int head = 0; head < group; head += HEADS) {
    float query[HEADS][8] = {};
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
      if (head + h < group && c < chunks) widen(query[h], rotated(q + (size_t)b * sizes[13] + (kvHead * group + head + h) * chunks, c));
    }
    for (int key = mine; key - lane / lanes < to; key += AHEAD * step) { // all lanes of a warp go on together
      uint4 ahead[AHEAD];
#pragma unroll
      for (int a = 0; a < AHEAD; a++) ahead[a] = load(oldKeys, newKey, key + a * step);
#pragma unroll
      for (int a = 0; a < AHEAD; a++) {
        float f[8];
        widen(f, ahead[a]);
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
          float s = 0;
#pragma unroll
          for (int i = 0; i < 8; i++) s += query[h][i] * f[i];
          for (int other = lanes / 2; other; other >>= 1) s += __shfl_xor_sync(0xffffffffu, s, other);
          s *= scale;
          if (cap != 0.f) s = cap * tanhf(s / cap);
          if (c == 0 && key + a * step < to) scores[h * per + key + a * step - from] = s;
        }
      }
    }
    __syncthreads();
    if (warp < HEADS) {
      float* own = scores + warp * per;
      float m = __int_as_float(0xff800000), sum = 0;
      for (int i = lane; i < to - from; i += 32) m = fmaxf(m, own[i]);
#pragma unroll
      for (int other = 16; other; other >>= 1) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, other));
      for (int i = lane; i < to - from; i += 32) sum += own[i] = __expf(own[i] - m);
#pragma unroll
      for (int other = 16; other; other >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, other);
      top[warp] = m, total[warp] = sum;
    }
    __syncthreads();
    float sum[HEADS][8] = {};
    for (int key = mine; key - lane / lanes < to; key += AHEAD * step) {
      uint4 ahead[AHEAD];
#pragma unroll
      for (int a = 0; a < AHEAD; a++) ahead[a] = load(oldValues, newValue, key + a * step);
#pragma unroll
      for (int a = 0; a < AHEAD; a++) {
        float f[8];
        widen(f, ahead[a]);
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
          const float p = key + a * step < to ? scores[h * per + key + a * step - from] : 0.f;
#pragma unroll
          for (int i = 0; i < 8; i++) sum[h][i] += p * f[i];
        }
      }
    }
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
#pragma unroll
      for (int i = 0; i < 8; i++) {
        for (int other = lanes; other < 32; other <<= 1) sum[h][i] += __shfl_xor_sync(0xffffffffu, sum[h][i], other);
        if (lane < chunks) sums[(warp * HEADS + h) * D + 8 * c + i] = sum[h][i];
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < HEADS * D; i += 32 * CACHE_WARPS) {
      const int h = i / D;
      if (head + h >= group) break;
      float s = 0;
      for (int w = 0; w < CACHE_WARPS; w++) s += sums[w * HEADS * D + i];
      const size_t row = (size_t)b * H + kvHead * group + head + h;
      if (splits == 1) {
        out[row * D + i % D] = (u16)pack(s / total[h], 0.f);
      } else {
        const size_t part = (size_t)split * (gridDim.x / K) * H + row;
        parts[part * D + i % D] = s;
        if (i % D == 0) stats[2 * part] = top[h], stats[2 * part + 1] = total[h];
      }
    }
    __syncthreads();
  }
}
