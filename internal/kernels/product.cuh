// Products of few rows with 4-bit weights that are decoded on the way: what nf4_vector.cu and nf4_rows.cuh share.
//
// A byte of a half-plane holds the codes of two outputs, r and r + R, for the same input. One look-up in shared memory
// decodes both, in a table of 256 entries that lies there 16 times, so that no two lanes of half a warp meet in a bank.
#pragma once
#include "nf4.cuh"

constexpr int TABLE_COPIES = 16;

// fetch asks for a line of memory that will be read soon.
__device__ __forceinline__ void fetch(const void* p) {
#ifndef LORIS_EMULATE
  asm volatile("prefetch.global.L2 [%0];" : : "l"(p));
#endif
}

// fillTable writes entry(lower number, upper number) for every byte; all threads of the block call it and then synchronize.
template <class E, class F> __device__ __forceinline__ void fillTable(E* table, int type, F entry) {
  for (int i = threadIdx.x; i < 256 * TABLE_COPIES; i += blockDim.x) {
    const int code = i / TABLE_COPIES;
    table[i] = entry(numbers[type][code & 15], numbers[type][code >> 4]);
  }
}

// MaybeNestedScales are the scales of a weight, double-quantized (groupShift >= 0) or not.
struct MaybeNestedScales {
  const void* first; // their codes, or they themselves
  const float *absmax, *offset, *map;
  int groupShift;
  __device__ __forceinline__ float operator()(u32 block) const {
    if (groupShift < 0) return Scales{(const float*)first}(block);
    return NestedScales{(const u8*)first, absmax, offset, map, groupShift}(block);
  }
};
