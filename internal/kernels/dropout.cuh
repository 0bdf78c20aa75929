// Dropout as package draw has it: a row's key and a column give a draw, and what is drawn at or above a threshold is kept.
#pragma once
#include "device.cuh"

__device__ __forceinline__ u32 mix(u32 x) {
  x ^= x >> 16;
  x *= 0x85ebca6bu;
  x ^= x >> 13;
  x *= 0xc2b2ae35u;
  return x ^ x >> 16;
}

// turned is the draw of an odd column, h that of the even one before it.
__device__ __forceinline__ u32 turned(u32 h) { return h << 16 | h >> 16; }

__device__ __forceinline__ u32 keptPair(u32 pair, u32 h, u32 threshold) {
  return (h >= threshold ? pair & 0x0000ffffu : 0u) | (turned(h) >= threshold ? pair & 0xffff0000u : 0u);
}

// kept is a chunk of a row, the number-th, with zeros for what is dropped.
__device__ __forceinline__ uint4 kept(const uint4& v, u32 key, u32 number, u32 threshold) {
  const u32 pair = key + 4 * number;
  return make_uint4(keptPair(v.x, mix(pair), threshold), keptPair(v.y, mix(pair + 1), threshold),
                    keptPair(v.z, mix(pair + 2), threshold), keptPair(v.w, mix(pair + 3), threshold));
}
