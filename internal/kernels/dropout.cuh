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

// turned is the draw of the number-th column of the four that h serves.
__device__ __forceinline__ u32 turned(u32 h, int number) { return number ? h << 8 * number | h >> (32 - 8 * number) : h; }

// keptPair is a pair of columns with zeros for what is dropped; first is the number of its first column among h's.
__device__ __forceinline__ u32 keptPair(u32 pair, u32 h, int first, u32 threshold) {
  return (turned(h, first) >= threshold ? pair & 0x0000ffffu : 0u) | (turned(h, first + 1) >= threshold ? pair & 0xffff0000u : 0u);
}

// kept is a chunk of a row, the number-th, with zeros for what is dropped.
__device__ __forceinline__ uint4 kept(const uint4& v, u32 key, u32 number, u32 threshold) {
  const u32 h = mix(key + 2 * number), g = mix(key + 2 * number + 1);
  return make_uint4(keptPair(v.x, h, 0, threshold), keptPair(v.y, h, 2, threshold), keptPair(v.z, g, 0, threshold), keptPair(v.w, g, 2, threshold));
}
