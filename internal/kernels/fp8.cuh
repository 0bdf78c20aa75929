// float8 E4M3 (arXiv:2209.05433; torch.float8_e4m3fn): numbers up to 448 with three bits behind the leading one, rounded to
// nearest even. Scales are powers of two, so that nothing but this rounding happens. Needs compute capability 8.9.
#pragma once
#include "nf4.cuh"

#ifndef LORIS_EMULATE
// packE4M3 rounds two numbers; the first is the low byte.
__device__ __forceinline__ u32 packE4M3(float low, float high) {
  u16 d;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0,%1,%2;" : "=h"(d) : "f"(high), "f"(low));
  return d;
}
#endif

__device__ __forceinline__ u32 packE4M3(float a, float b, float c, float d) { return packE4M3(a, b) | packE4M3(c, d) << 16; }

// scaleBits are the bits of the smallest power of two by which numbers up to most can be divided to be at most 448, inverseBits
// those of its inverse.
__device__ __forceinline__ u32 scaleBits(float most) {
  return ((__float_as_uint(fmaxf(most, 7.8886090522101181e-31f)) + 0x1fffffu) & 0x7f800000u) - (8u << 23); // not below 2^-100
}
__device__ __forceinline__ u32 inverseBits(u32 bits) { return (254u << 23) - bits; }

// blockMax is the largest v, none negative, of all threads of a block of whole warps; sums holds a number for each warp.
__device__ __forceinline__ float blockMax(float v, float* most) {
#pragma unroll
  for (int lanes = 16; lanes; lanes >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, lanes));
  if ((threadIdx.x & 31) == 0) most[threadIdx.x >> 5] = v;
  __syncthreads();
  float all = 0;
  for (int i = 0; i < (int)blockDim.x >> 5; i++) all = fmaxf(all, most[i]);
  return all;
}

// valueE4M3 is the number that the low byte of v stands for, and not NaN.
__device__ __forceinline__ float valueE4M3(u32 v) {
  const u32 n = v & 0x7f;
  const float a = n < 8 ? n * (1.f / 512) : __uint_as_float((n << 20) + (120u << 23));
  return v & 0x80 ? -a : a;
}

// An adapter's factor in room behind a matrix in float8 is the sum of two numbers, the larger one and what it lacks, so that
// products are as good as in bf16:
//   low  = [a | a/16 | 16(low - a) | 0]      tail = [b | 16(tail - b) | b/16 | 0]      a and b the rounded low and tail
// factorE4M3 is column i of it, for n columns v(0) to v(n - 1), of a tail or a low.
template <class F> __device__ __forceinline__ u32 factorE4M3(int i, int n, bool tail, F v) {
  if (i >= 3 * n) return 0;
  const int part = i < n ? 0 : i < 2 * n ? 1 : 2;
  const float x = v(i - part * n);
  const u32 larger = packE4M3(x, 0.f) & 255;
  if (part == 0) return larger;
  const float a = valueE4M3(larger);
  return packE4M3((part == 2) == tail ? a * 0.0625f : (x - a) * 16, 0.f) & 255;
}

// ProductsE4M3 are the 16 products of a block.
struct ProductsE4M3 {
  u32 v[4];
};

__device__ __forceinline__ ProductsE4M3 productsE4M3(int type, float s, float inverse) {
  ProductsE4M3 p;
  const float* n = numbers[type];
#pragma unroll
  for (int j = 0; j < 4; j++)
    p.v[j] = packE4M3(n[4 * j] * s * inverse, n[4 * j + 1] * s * inverse, n[4 * j + 2] * s * inverse, n[4 * j + 3] * s * inverse);
  return p;
}

// lookUpE4M3 returns the products of the four lowest codes of q.
__device__ __forceinline__ u32 lookUpE4M3(const ProductsE4M3& p, u32 q) {
  const u32 index = q & 0x7777u, upper = ((q >> 1) & 0x4444u) | 0x3210u;
  return __byte_perm(__byte_perm(p.v[0], p.v[1], index), __byte_perm(p.v[2], p.v[3], index), upper);
}

// decodeE4M3 returns the products of eight codes: four even nibbles of q, then four odd ones.
__device__ __forceinline__ uint2 decodeE4M3(const ProductsE4M3& p, u32 q) {
  const u32 a = lookUpE4M3(p, q), b = lookUpE4M3(p, q >> 16);
  return make_uint2(__byte_perm(a, b, 0x6420), __byte_perm(a, b, 0x7531));
}

// Decoded are the weights that 32 bytes of codes stand for, of a row and of the row half a weight below.
struct Decoded {
  u32 low[8], high[8];
};

// decode32 decodes half of a chunk of 64 bytes; two neighbouring threads have the two halves, and first and second are the
// scales of the chunk's blocks in the two rows.
__device__ __forceinline__ void decode32(Decoded& d, const uint4* q, int type, float first, float second, float inverse) {
  const bool odd = threadIdx.x & 1;
  const ProductsE4M3 own = productsE4M3(type, odd ? second : first, inverse);
  ProductsE4M3 low, high;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const u32 other = __shfl_xor_sync(0xffffffffu, own.v[j], 1);
    low.v[j] = odd ? other : own.v[j];
    high.v[j] = odd ? own.v[j] : other;
  }
#pragma unroll
  for (int k = 0; k < 4; k++) {
    const u32 x = k & 1 ? q[k / 2].z : q[k / 2].x, y = k & 1 ? q[k / 2].w : q[k / 2].y, nibbles = 0x0f0f0f0fu;
    const uint2 l = decodeE4M3(low, (x & nibbles) | ((y & nibbles) << 4)), h = decodeE4M3(high, ((x >> 4) & nibbles) | (y & ~nibbles));
    d.low[2 * k] = l.x, d.low[2 * k + 1] = l.y;
    d.high[2 * k] = h.x, d.high[2 * k + 1] = h.y;
  }
}

constexpr int TILE_ROWS = 128, TILE_STRIDE = TILE_ROWS + 16; // bytes

// codes u8 [R*I] of a weight W [2R,I], unit f32 a power of two, tail bf16 [2R,n], or transposed [I,n], tailUnit f32 a power of two ->
// out e4m3 [W/unit | tail/tailUnit in 16P columns], [2R,I+16P], or transposed [I,2R+16P].
// sizes = {R, I, log2(blocksize/64), type, group shift, transposed, n, P}; 256 threads; grid: chunks of 64 bytes/128, or,
// transposed, {row tiles, I/64}.
template <class S>
__device__ __forceinline__ void decodeWeight(const uint4* __restrict__ codes, S scales, const float* __restrict__ unit,
                                             const u16* __restrict__ tail, const float* __restrict__ tailUnit,
                                             const int* __restrict__ sizes, uint4* __restrict__ out) {
  const u32 P = sizes[7];
  if (P) {
    const u32 rows = sizes[5] ? sizes[1] : 2 * sizes[0], pitch = (sizes[5] ? 2 * sizes[0] : sizes[1]) / 4 + 4 * P; // words
    const u32 blocks = gridDim.x * gridDim.y, block = blockIdx.y * gridDim.x + blockIdx.x;
    const float inverse = __uint_as_float(inverseBits(__float_as_uint(tailUnit[0])));
    const int n = sizes[6];
    for (u32 i = block * 256 + threadIdx.x; i < rows * 4 * P; i += blocks * 256) {
      const u32 row = i / (4 * P), word = i % (4 * P);
      u32 v = 0;
      for (int k = 0; k < 4; k++)
        v |= factorE4M3(4 * word + k, n, true, [&](int j) { return lowHalf(tail[(size_t)row * n + j]) * inverse; }) << 8 * k;
      ((u32*)out)[(size_t)(row + 1) * pitch - 4 * P + word] = v;
    }
  }
  const u32 R = sizes[0], chunks = sizes[1] / 64, blockShift = sizes[2], half = threadIdx.x & 1;
  const int type = sizes[3];
  const float inverse = __uint_as_float(inverseBits(__float_as_uint(unit[0])));
  const u32 n = R * chunks; // of 64 bytes
  u32 chunk;
  bool exists;
  if (sizes[5]) {
    const u32 row = blockIdx.x * TILE_ROWS + threadIdx.x / 2;
    exists = row < R;
    chunk = row * chunks + blockIdx.y;
  } else {
    chunk = blockIdx.x * 128 + threadIdx.x / 2;
    exists = chunk < n;
  }
  uint4 q[2] = {make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
  float first = 0, second = 0;
  if (exists) {
    const size_t at = (size_t)chunk * 4 + half * 2;
    q[0] = __ldcs(codes + at), q[1] = __ldcs(codes + at + 1);
    first = scales(chunk >> blockShift), second = scales((chunk + n) >> blockShift);
  }
  Decoded d;
  decode32(d, q, type, first, second, inverse);
  if (!sizes[5]) {
    if (exists) {
      uint4* to = out + (size_t)chunk * 4 + (size_t)(chunk / chunks) * P + half * 2;
      to[0] = make_uint4(d.low[0], d.low[1], d.low[2], d.low[3]);
      to[1] = make_uint4(d.low[4], d.low[5], d.low[6], d.low[7]);
      to += (size_t)n * 4 + (size_t)R * P;
      to[0] = make_uint4(d.high[0], d.high[1], d.high[2], d.high[3]);
      to[1] = make_uint4(d.high[4], d.high[5], d.high[6], d.high[7]);
    }
    return;
  }
  __shared__ uint4 tile[2 * 64 * TILE_STRIDE / 16];
  u8* to = (u8*)tile + half * 32 * TILE_STRIDE + threadIdx.x / 2;
#pragma unroll
  for (int k = 0; k < 8; k++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      to[(4 * k + i) * TILE_STRIDE] = (u8)(d.low[k] >> 8 * i);
      to[(64 + 4 * k + i) * TILE_STRIDE] = (u8)(d.high[k] >> 8 * i);
    }
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < 4; k++) { // 16 bytes of 128 columns, of either half
    const u32 i = threadIdx.x + 256 * k, piece = i % 8, column = i / 8 % 64, lower = i / 512;
    const u32 row = blockIdx.x * TILE_ROWS + piece * 16;
    if (row < R) out[(size_t)(blockIdx.y * 64 + column) * (2 * R / 16 + P) + (lower * R + row) / 16] = tile[((lower * 64 + column) * TILE_STRIDE) / 16 + piece];
  }
}
