// Rotary position embedding (arXiv:2104.09864) of heads whose halves are the real and imaginary parts.
#pragma once
#include "device.cuh"

// Angles are those of eight neighbouring features of a half.
struct Angles {
  float cos[8], sin[8];

  // cosines and sines f32 [P,head_dim/2], four at a time; at is that of the first.
  __device__ __forceinline__ Angles(const float4* cosines, const float4* sines, size_t at) {
    const float4 c0 = cosines[at], c1 = cosines[at + 1], s0 = sines[at], s1 = sines[at + 1];
    cos[0] = c0.x, cos[1] = c0.y, cos[2] = c0.z, cos[3] = c0.w, cos[4] = c1.x, cos[5] = c1.y, cos[6] = c1.z, cos[7] = c1.w;
    sin[0] = s0.x, sin[1] = s0.y, sin[2] = s0.z, sin[3] = s0.w, sin[4] = s1.x, sin[5] = s1.y, sin[6] = s1.z, sin[7] = s1.w;
  }
};

// rotate writes what the chunks re and im are, rotated by the angles or, with SIGN -1, back.
template <int SIGN>
__device__ __forceinline__ void rotate(const uint4& re, const uint4& im, const Angles& by, uint4& real, uint4& imaginary) {
  float r[8], i[8], x[8], y[8];
  widen(r, re);
  widen(i, im);
#pragma unroll
  for (int k = 0; k < 8; k++) {
    x[k] = r[k] * by.cos[k] - SIGN * by.sin[k] * i[k];
    y[k] = i[k] * by.cos[k] + SIGN * by.sin[k] * r[k];
  }
  real = narrow(x);
  imaginary = narrow(y);
}
