#include "rope.cuh"

// dq [T,Q], dk [T,K], dv [T,K]; cos and sin f32 [P,head_dim/2], row t%P for token t -> out [T,Q+2K+8X] = [dq rotated back | dk rotated back | dv | 0].
// sizes = {Q/8, K/8, P, X, head_dim/16}; grid T.
extern "C" __global__ void __launch_bounds__(128)
loris_rope_backward(const uint4* __restrict__ dq, const uint4* __restrict__ dk, const uint4* __restrict__ dv,
                    const float4* __restrict__ cos, const float4* __restrict__ sin, const int* __restrict__ sizes,
                    uint4* __restrict__ out) {
  const int Q = sizes[0], K = sizes[1], X = sizes[3], half = sizes[4];
  const size_t row = blockIdx.x, to = row * (Q + 2 * K + X), angles = (size_t)(blockIdx.x % sizes[2]) * half * 2;
  for (int i = threadIdx.x; i < (Q + K) / 2; i += 128) {
    const int head = i / half, j = i - head * half, c = head * 2 * half + j;
    const uint4* from = c < Q ? dq + row * Q + c : dk + row * K + (c - Q);
    rotate<-1>(from[0], from[half], Angles(cos, sin, angles + 2 * j), out[to + c], out[to + c + half]);
  }
  for (int i = threadIdx.x; i < K; i += 128) out[to + Q + K + i] = dv[row * K + i];
  for (int i = threadIdx.x; i < X; i += 128) out[to + Q + 2 * K + i] = make_uint4(0, 0, 0, 0);
}
