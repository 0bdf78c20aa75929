// What the kernels share. bf16 tensors are read and written in chunks: 8 columns of a row, 16 bytes. X is the number of
// chunks of padding behind a row.
#pragma once

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

#ifdef LORIS_EMULATE
#include "testdata/emulate.h" // the same names for a host
#else

#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) u16 name[]

// pack rounds two numbers to bf16 (to nearest even); the first is the low half.
__device__ __forceinline__ u32 pack(float low, float high) {
  u32 d;
  asm("cvt.rn.bf16x2.f32 %0,%1,%2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}

typedef u32 SharedAddress;
__device__ __forceinline__ SharedAddress shared(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// copyAsync starts to copy 16 bytes to shared memory, zeros if there are none; awaitCopies waits for this thread's copies.
// commitCopies makes a group of those since the last one, and awaitCopiesBut waits for all but the last LATER groups.
__device__ __forceinline__ void copyAsync(SharedAddress to, const void* from, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" : : "r"(to), "l"(from), "r"(exists ? 16 : 0) : "memory");
}
__device__ __forceinline__ void awaitCopies() { asm volatile("cp.async.wait_all;" : : : "memory"); }
__device__ __forceinline__ void commitCopies() { asm volatile("cp.async.commit_group;" : : : "memory"); }
template <int LATER> __device__ __forceinline__ void awaitCopiesBut() { asm volatile("cp.async.wait_group %0;" : : "n"(LATER) : "memory"); }

// matrices loads four 8x8 matrices of bf16, as operands of multiply; lane i names row i%8 of matrix i/8.
__device__ __forceinline__ void matrices(u32* r, SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
}
__device__ __forceinline__ void matricesTransposed(u32* r, SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
}

// multiply is c += a b, a 16x16 and b 16x8 in bf16, c 16x8 in float32.
__device__ __forceinline__ void multiply(float* c, const u32* a, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// power is 2^x, 0 where that is subnormal; inverse is 1/x, 0 of infinity. One instruction each, without the care for subnormal
// numbers that __expf and __fdividef take.
__device__ __forceinline__ float power(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float inverse(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x));
  return y;
}
#endif

constexpr float LOG2E = 1.4426950408889634f;

__device__ __forceinline__ float lowHalf(u32 v) { return __uint_as_float(v << 16); }
__device__ __forceinline__ float highHalf(u32 v) { return __uint_as_float(v & 0xffff0000u); }
__device__ __forceinline__ float rounded(float x) { return lowHalf(pack(x, 0.f)); }

// widen is a chunk in float32, narrow the reverse.
__device__ __forceinline__ void widen(float* f, const uint4& chunk) {
  f[0] = lowHalf(chunk.x); f[1] = highHalf(chunk.x);
  f[2] = lowHalf(chunk.y); f[3] = highHalf(chunk.y);
  f[4] = lowHalf(chunk.z); f[5] = highHalf(chunk.z);
  f[6] = lowHalf(chunk.w); f[7] = highHalf(chunk.w);
}
__device__ __forceinline__ uint4 narrow(const float* f) {
  return make_uint4(pack(f[0], f[1]), pack(f[2], f[3]), pack(f[4], f[5]), pack(f[6], f[7]));
}

// sigmoid is 1/(1+exp(-x)); it is 0 where exp(-x) is not finite.
__device__ __forceinline__ float sigmoid(float x) { return inverse(1.f + power(-LOG2E * x)); }

// blockSum adds v over all threads of a block of whole warps; sums holds a number for each warp.
__device__ __forceinline__ float blockSum(float v, float* sums) {
#pragma unroll
  for (int lanes = 16; lanes; lanes >>= 1) v += __shfl_xor_sync(0xffffffffu, v, lanes);
  if ((threadIdx.x & 31) == 0) sums[threadIdx.x >> 5] = v;
  __syncthreads();
  float total = 0;
  for (int i = 0; i < (int)blockDim.x >> 5; i++) total += sums[i];
  return total;
}
