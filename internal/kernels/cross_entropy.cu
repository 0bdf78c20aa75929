// The cross entropy of rows of logits against labels, with its gradient: a block goes through a row twice, for the sums and,
// backwards, for the gradient. In between the row's beginning stays in shared memory; its end may still be in a cache. Few
// instructions are spent on an element: powers are of 2, the gradient is one without a division, and the label's element is seen
// to apart.
#include "device.cuh"

#ifndef LORIS_EMULATE
// larger are the larger halves of two pairs of bf16.
__device__ __forceinline__ u32 larger(u32 a, u32 b) {
  u32 d;
  asm("max.bf16x2 %0,%1,%2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
#endif

constexpr int THREADS = 512, AT_ONCE = 4, STEP = THREADS * AT_ONCE; // chunks that a thread, and that a block reads at once
constexpr float LN2 = 0.6931471805599453f;

// No logits are LOWEST; PADDING, two bf16 of -1e30, is so far below it that its power is 0, but not infinite, so that 0 times it is 0.
constexpr float LOWEST = -1e20f;
constexpr u32 PADDING = 0xf149f149u;

// Sums of logits x, in units of ln 2: the largest or LOWEST, and, of 2^(x-top), their sum and that of their products with x-top.
// x-top is rounded once; that top itself is rounded drops out of loss and entropy, for which only differences from it count.
struct Sums { float top, sum, products; };

// raised are sums with another top.
__device__ __forceinline__ Sums raised(const Sums& s, float top) {
  const float by = s.top - top, factor = power(by);
  return {top, s.sum * factor, (s.products + by * s.sum) * factor};
}

// ofWarp are the sums of all lanes' logits, for all of them.
__device__ __forceinline__ Sums ofWarp(Sums s) {
  float top = s.top;
#pragma unroll
  for (int lanes = 16; lanes; lanes >>= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, lanes));
  s = raised(s, top);
#pragma unroll
  for (int lanes = 16; lanes; lanes >>= 1) {
    s.sum += __shfl_xor_sync(0xffffffffu, s.sum, lanes);
    s.products += __shfl_xor_sync(0xffffffffu, s.products, lanes);
  }
  return s;
}

// logits [n,8C], labels i32 [n] -> f32 [n]: loss, the entropy of softmax(logits), whether the label ranks first; and with gradient
// softmax(logits) - onehot(label), in place of the logits. All are 0 where the label is `ignored`; one that is no column counts as
// a logit of 0. sizes = {C, ignored, gradient, K}, where K, a multiple of STEP, is how many chunks of a row are kept; grid n,
// THREADS threads; dynamic shared memory: K chunks.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
loris_cross_entropy(const uint4* logits, const int* __restrict__ labels, const int* __restrict__ sizes, float* __restrict__ loss,
                    float* __restrict__ entropy, float* __restrict__ first, uint4* dLogits) {
  DYNAMIC_SHARED(memory);
  __shared__ Sums sums[THREADS / 32];
  const int chunks = sizes[0], gradient = sizes[2], keep = sizes[3], tid = threadIdx.x, lane = tid & 31;
  const size_t row = blockIdx.x;
  const int label = labels[row];
  logits += row * chunks, dLogits += row * chunks;
  uint4* kept = (uint4*)memory + tid; // each thread reads what it wrote
  if (label == sizes[1]) {
    if (tid == 0) loss[row] = entropy[row] = first[row] = 0;
    if (gradient) {
      for (int c = tid; c < chunks; c += THREADS) __stcs(dLogits + c, make_uint4(0, 0, 0, 0));
    }
    return;
  }

  Sums s = {LOWEST, 0, 0};
  for (int from = 0, c = tid; c < chunks; from += STEP, c += STEP) {
    uint4 q[AT_ONCE];
#pragma unroll
    for (int k = 0; k < AT_ONCE; k++) {
      q[k] = c + k * THREADS < chunks ? logits[c + k * THREADS] : make_uint4(PADDING, PADDING, PADDING, PADDING);
    }
    if (from < keep) {
#pragma unroll
      for (int k = 0; k < AT_ONCE; k++) kept[from + k * THREADS] = q[k];
    }
    u32 top = PADDING;
#pragma unroll
    for (int k = 0; k < AT_ONCE; k++) top = larger(top, larger(larger(q[k].x, q[k].y), larger(q[k].z, q[k].w)));
    s = raised(s, fmaxf(s.top, fmaxf(lowHalf(top), highHalf(top)) * LOG2E));
#pragma unroll
    for (int k = 0; k < AT_ONCE; k++) {
      float f[8];
      widen(f, q[k]);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float x = fmaf(f[i], LOG2E, -s.top), e = power(x);
        s.sum += e;
        s.products = fmaf(e, x, s.products);
      }
    }
  }
  const bool column = label >= 0 && label < 8 * chunks;
  const float picked = column ? lowHalf(((const u16*)logits)[label]) : 0.f; // before the gradient takes its place
  s = ofWarp(s);
  if (lane == 0) sums[tid >> 5] = s;
  __syncthreads();
  s = ofWarp(lane < THREADS / 32 ? sums[lane] : Sums{LOWEST, 0, 0});

  const float below = fmaf(picked, LOG2E, -s.top), log = log2f(s.sum);
  if (tid == 0) {
    loss[row] = (log - below) * LN2;
    entropy[row] = (log - s.products / s.sum) * LN2;
    first[row] = picked * LOG2E >= s.top ? 1.f : 0.f;
  }
  if (!gradient) return;
  const float all = s.top + log; // softmax is 2^(x-all)
  for (int from = (chunks - 1) / STEP * STEP, c = from + tid; from >= 0; from -= STEP, c -= STEP) {
    uint4 q[AT_ONCE];
    if (from < keep) {
#pragma unroll
      for (int k = 0; k < AT_ONCE; k++) q[k] = kept[from + k * THREADS];
    } else {
#pragma unroll
      for (int k = 0; k < AT_ONCE; k++) {
        q[k] = c + k * THREADS < chunks ? __ldcs(logits + c + k * THREADS) : make_uint4(0, 0, 0, 0);
      }
    }
#pragma unroll
    for (int k = 0; k < AT_ONCE; k++) {
      float f[8];
      widen(f, q[k]);
#pragma unroll
      for (int i = 0; i < 8; i++) f[i] = power(fmaf(f[i], LOG2E, -all));
      if (c + k * THREADS < chunks) __stcs(dLogits + c + k * THREADS, narrow(f));
    }
  }
  // The thread that wrote the label's chunk does it again; as a quotient, near 1, the softmax is more exact.
  if (column && label / 8 % THREADS == tid) ((u16*)dLogits)[label] = (u16)pack(power(below) / s.sum - 1.f, 0.f);
}
