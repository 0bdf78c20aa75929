// Decodes 4-bit weights: out[i] = bf16(number[code i] * absmax[block of i]), one float32 product rounded once.
//
// Eight codes of a half-plane byte row are looked up together by byte permutes in the 16 products of their block, which
// the eight threads that share a block make, two each. A thread decodes STEPS times 8 bytes, the low nibbles to one row
// and the high ones to the row half a weight below.
#pragma once
#include "device.cuh"

constexpr int THREADS = 256, STEPS = 4;

// The numbers of NF4 and FP4 by code, as package quant has them.
__constant__ float numbers[2][16] = {
    {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
     -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
     0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f},
    {0.0f, 0.0625f / 12, 8.f / 12, 1.0f, 4.f / 12, 6.f / 12, 2.f / 12, 3.f / 12,
     -0.0f, -0.0625f / 12, -8.f / 12, -1.0f, -4.f / 12, -6.f / 12, -2.f / 12, -3.f / 12},
};

// Products are the 16 products of a block, their low and high bytes apart.
struct Products {
  u32 low[4], high[4];
};

// products multiplies the numbers by s; every eight threads have the same s and, in order, all numbers two by two.
__device__ __forceinline__ Products products(float even, float odd, float s) {
  const int first = threadIdx.x & 24;
  const u32 own = pack(even * s, odd * s);
  u32 v[8];
#pragma unroll
  for (int j = 0; j < 8; j++) v[j] = __shfl_sync(0xffffffffu, own, first + j);
  Products p;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    p.low[j] = __byte_perm(v[2 * j], v[2 * j + 1], 0x6420);
    p.high[j] = __byte_perm(v[2 * j], v[2 * j + 1], 0x7531);
  }
  return p;
}

// lookUp returns low and high bytes of the products of the four lowest codes of q.
__device__ __forceinline__ void lookUp(const Products& p, u32 q, u32& low, u32& high) {
  const u32 index = q & 0x7777u, upper = ((q >> 1) & 0x4444u) | 0x3210u;
  low = __byte_perm(__byte_perm(p.low[0], p.low[1], index), __byte_perm(p.low[2], p.low[3], index), upper);
  high = __byte_perm(__byte_perm(p.high[0], p.high[1], index), __byte_perm(p.high[2], p.high[3], index), upper);
}

// decode returns eight products: codes 0 to 3 are the even nibbles of q, codes 4 to 7 the odd ones.
__device__ __forceinline__ uint4 decode(const Products& p, u32 q) {
  u32 low0, high0, low1, high1;
  lookUp(p, q, low0, high0);
  lookUp(p, q >> 16, low1, high1);
  return make_uint4(__byte_perm(low0, high0, 0x6240), __byte_perm(low1, high1, 0x6240),
                    __byte_perm(low0, high0, 0x7351), __byte_perm(low1, high1, 0x7351));
}

// Scales returns the scale of a block.
struct Scales {
  const float* absmax;
  __device__ __forceinline__ float operator()(u32 block) const { return __ldg(absmax + block); }
};

// NestedScales decodes double-quantized ones; product and sum are rounded apart, as bitsandbytes does.
struct NestedScales {
  const u8* codes;
  const float *absmax, *offset, *map;
  int groupShift;
  __device__ __forceinline__ float operator()(u32 block) const {
    const u32 group = block >> groupShift;
    return __fadd_rn(__fmul_rn(__ldg(map + __ldg(codes + block)), __ldg(absmax + group)), __ldg(offset + group));
  }
};

// Factors are those of up to three adapters, f32, and of each {first, end, width, scale}: beside a weight, [end-first,width] stand
// next to its rows from first to end, behind the columns of the factors before; below it, [width,I]. Elsewhere are zeros.
constexpr int FACTORS = 3;
struct Factors {
  const float* x[FACTORS];
  const int* of;

  // eight are eight numbers of a factor times its scale.
  __device__ __forceinline__ uint4 eight(int k, size_t at) const {
    const float4 low = __ldg((const float4*)(x[k] + at)), high = __ldg((const float4*)(x[k] + at) + 1);
    const float scale = __int_as_float(of[4 * k + 3]);
    const float f[8] = {low.x * scale, low.y * scale, low.z * scale, low.w * scale, high.x * scale, high.y * scale, high.z * scale, high.w * scale};
    return narrow(f);
  }

  // beside is a chunk of a row, below likewise.
  __device__ __forceinline__ uint4 beside(int row, int chunk) const {
    float f[8] = {};
    int column = chunk * 8; // the chunk's first, of the factor's
#pragma unroll
    for (int k = 0; k < FACTORS; k++) {
      const int first = of[4 * k], end = of[4 * k + 1], width = of[4 * k + 2];
      if (row >= first && row < end && column < width && column > -8) {
        const size_t at = (size_t)(row - first) * width;
        if (width % 8 == 0 && column % 8 == 0) return eight(k, at + column);
#pragma unroll
        for (int i = 0; i < 8; i++) {
          if (column + i >= 0 && column + i < width) f[i] = __ldg(x[k] + at + column + i) * __int_as_float(of[4 * k + 3]);
        }
      }
      column -= width;
    }
    return narrow(f);
  }
  __device__ __forceinline__ uint4 below(int row, int chunk, int chunks) const {
#pragma unroll
    for (int k = 0; k < FACTORS; k++) {
      const int width = of[4 * k + 2];
      if (row >= 0 && row < width) return eight(k, ((size_t)row * chunks + chunk) * 8);
      row -= width;
    }
    return make_uint4(0, 0, 0, 0);
  }
};

// codes u8 [R*I] of a weight [2R,I] -> out bf16 [2R,I+8X] with factors beside it, or [2R+rows,I] with factors below.
// sizes = {R, I/8, X, rows, log2(blocksize/8), type, group shift, factors}.
template <class S>
__device__ __forceinline__ void dequantize(const uint2* __restrict__ codes, S scales, Factors factors, const int* __restrict__ sizes,
                                           uint4* __restrict__ out) {
  const u32 rows = sizes[0], chunks = sizes[1], X = sizes[2], belows = sizes[3], blockShift = sizes[4];
  const u32 n = rows * chunks, lane = threadIdx.x & 7;
  // The first blocks place the factors, the others decode, as many chunks each.
  const u32 besides = 2 * rows * X, placed = besides + belows * chunks, placing = (placed + THREADS * STEPS - 1) / (THREADS * STEPS);
  if (blockIdx.x < placing) {
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
      const u32 i = (blockIdx.x * STEPS + k) * THREADS + threadIdx.x;
      if (i < besides) {
        const u32 row = i / X;
        out[(size_t)(row + 1) * chunks + i] = factors.beside(row, i % X);
      } else if (i < placed) {
        out[(size_t)2 * n + i] = factors.below(i / chunks, i % chunks, chunks);
      }
    }
    return;
  }
  const u32 begin = (blockIdx.x - placing) * (THREADS * STEPS);
  const float even = numbers[sizes[5]][2 * lane], odd = numbers[sizes[5]][2 * lane + 1];
  // Eight threads need 2 STEPS = 8 scales together: each fetches one.
  static_assert(STEPS == 4, "one scale for each of eight threads");
  const u32 mine = begin + (lane >> 1) * THREADS + (threadIdx.x & ~7);
  const float scale = mine < n ? scales((mine + (lane & 1) * n) >> blockShift) : 0.f;
  uint2 q[STEPS];
#pragma unroll
  for (int k = 0; k < STEPS; k++) {
    const u32 i = begin + k * THREADS + threadIdx.x;
    q[k] = i < n ? __ldcs(codes + i) : make_uint2(0, 0);
  }
#pragma unroll
  for (int k = 0; k < STEPS; k++) {
    const u32 i = begin + k * THREADS + threadIdx.x, nibbles = 0x0f0f0f0fu;
    const u32 row = X ? i / chunks : 0;
    uint4* to = out + (size_t)i + (size_t)row * X;
    const int first = threadIdx.x & 24;
    const float low = __shfl_sync(0xffffffffu, scale, first + 2 * k), high = __shfl_sync(0xffffffffu, scale, first + 2 * k + 1);
    const uint4 upper = decode(products(even, odd, low), (q[k].x & nibbles) | ((q[k].y & nibbles) << 4));
    const uint4 lower = decode(products(even, odd, high), ((q[k].x >> 4) & nibbles) | (q[k].y & ~nibbles));
    if (i < n) {
      __stcs(to, upper);
      __stcs(to + (size_t)n + (size_t)rows * X, lower);
    }
  }
}
