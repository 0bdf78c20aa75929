#include "rope.cuh"

// qkv [T,Q+2K]; cos and sin f32 [P,head_dim/2], row t%P for token t -> q [T,Q] and k [T,K], rotated, and v [T,K].
// sizes = {Q/8, K/8, P, head_dim/16}; grid T.
extern "C" __global__ void __launch_bounds__(128)
loris_rope(const uint4* __restrict__ qkv, const float4* __restrict__ cos, const float4* __restrict__ sin, const int* __restrict__ sizes,
           uint4* __restrict__ q, uint4* __restrict__ k, uint4* __restrict__ v) {
  const int Q = sizes[0], K = sizes[1], half = sizes[3];
  const size_t row = blockIdx.x, angles = (size_t)(blockIdx.x % sizes[2]) * half * 2;
  qkv += row * (Q + 2 * K);
  for (int i = threadIdx.x; i < (Q + K) / 2; i += 128) {
    const int head = i / half, j = i - head * half, c = head * 2 * half + j;
    uint4* to = c < Q ? q + row * Q + c : k + row * K + (c - Q);
    rotate<1>(qkv[c], qkv[c + half], Angles(cos, sin, angles + 2 * j), to[0], to[half]);
  }
  for (int i = threadIdx.x; i < K; i += 128) v[row * K + i] = qkv[Q + K + i];
}
