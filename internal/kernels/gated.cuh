// Gated activations: act(gate)*up, where act(x) is x*sigmoid(z(x)).
#pragma once
#include "device.cuh"

// SwiGLU (arXiv:2002.05202): z(x) = x.
struct SiLU {
  static __device__ __forceinline__ float inner(float x) { return x; }
  static __device__ __forceinline__ float slope(float) { return 1.f; } // of inner
};

// GeGLU with the approximation by tanh (arXiv:1606.08415): x/2*(1+tanh(u)) is x*sigmoid(2u), u = sqrt(2/pi)*(x+0.044715x^3).
struct GELUTanh {
  static constexpr float TWICE = 1.5957691216057308f, CUBE = 0.044715f;
  static __device__ __forceinline__ float inner(float x) { return TWICE * (x + CUBE * x * x * x); }
  static __device__ __forceinline__ float slope(float x) { return TWICE * (1.f + 3.f * CUBE * x * x); }
};

template <class A>
__device__ __forceinline__ float act(float x) { return x * sigmoid(A::inner(x)); }

// gateUp [T,2F], its rows times scale f32 [T] if scaled -> out [T,F+8X] = [act(gate)*up | 0]. sizes = {F/8, X, blocks for a row,
// scaled}; grid T times these, 256 threads.
template <class A>
__device__ __forceinline__ void gated(const uint4* __restrict__ gateUp, const float* __restrict__ scale, const int* __restrict__ sizes,
                                      uint4* __restrict__ out) {
  const int chunks = sizes[0], X = sizes[1], blocks = sizes[2];
  const u32 block = blockIdx.x;
  const size_t row = block / blocks;
  const int c = (block - (u32)row * blocks) * 256 + threadIdx.x;
  if (c < X) out[row * (chunks + X) + chunks + c] = make_uint4(0, 0, 0, 0);
  if (c >= chunks) return;
  float gate[8], up[8];
  const float s = sizes[3] ? scale[row] : 1.f;
  widen(gate, gateUp[row * 2 * chunks + c]);
  widen(up, gateUp[row * 2 * chunks + chunks + c]);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    gate[i] *= s;
    gate[i] = act<A>(gate[i]) * (up[i] * s);
  }
  out[row * (chunks + X) + c] = narrow(gate);
}
