// Dropout as package draw has it: a row's key and a column give a draw, and what is drawn at or above a threshold is kept.
//
// Draws have 15 bits, two in a word, and so have thresholds. As float16, which a GPU compares two at a time, they are in the same
// order: numbers that are not negative, infinity, and NaN, which counts as above everything.
#pragma once
#include "device.cuh"

__device__ __forceinline__ u32 mix(u32 x) {
  x ^= x >> 16;
  x *= 0x85ebca6bu;
  x ^= x >> 13;
  x *= 0xc2b2ae35u;
  return x ^ x >> 16;
}

// again is the hash of the last four columns of a chunk, h that of the first four.
__device__ __forceinline__ u32 again(u32 h) {
  h *= 0x9e3779b1u;
  return h ^ h >> 16;
}

// draws are those of two of the four columns that h serves, the first two or the others, behind the bits 15 and 31.
__device__ __forceinline__ u32 draws(u32 h, bool others) { return others ? __byte_perm(h, h, 0x2103) : h; }

#ifndef LORIS_EMULATE
// below has ones in each half in which a draw is below the threshold.
__device__ __forceinline__ u32 below(u32 draws, u32 thresholds) {
  u32 mask;
  asm("{.reg .b32 d; abs.f16x2 d,%1; sub.f16x2 d,d,%2; prmt.b32 %0,d,0,0xbb99;}" : "=r"(mask) : "r"(draws), "r"(thresholds)); // signs, spread
  return mask;
}

// addKept adds to each of two sums where the draw is not below the threshold.
__device__ __forceinline__ void addKept(float* sums, const float* v, u32 draws, u32 thresholds) {
  asm("{.reg .pred p,q; .reg .b32 d; abs.f16x2 d,%4; setp.geu.f16x2 p|q,d,%5; @p add.f32 %0,%0,%2; @q add.f32 %1,%1,%3;}"
      : "+f"(sums[0]), "+f"(sums[1]) : "f"(v[0]), "f"(v[1]), "r"(draws), "r"(thresholds));
}
#endif

// masks have ones where a chunk of a row, the number-th, is kept.
__device__ __forceinline__ uint4 masks(u32 key, u32 number, u32 thresholds) {
  const u32 h = mix(key + number), g = again(h);
  return make_uint4(~below(draws(h, false), thresholds), ~below(draws(h, true), thresholds),
                    ~below(draws(g, false), thresholds), ~below(draws(g, true), thresholds));
}

__device__ __forceinline__ uint4 operator&(const uint4& v, const uint4& m) { return make_uint4(v.x & m.x, v.y & m.y, v.z & m.z, v.w & m.w); }

// kept is a chunk with zeros for what is dropped.
__device__ __forceinline__ uint4 kept(const uint4& v, u32 key, u32 number, u32 thresholds) { return v & masks(key, number, thresholds); }
