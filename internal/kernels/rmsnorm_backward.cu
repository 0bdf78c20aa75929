// The backward of RMSNorm with respect to its input, one block for a row, which it keeps in registers: HELD chunks a thread.
#include "device.cuh"

constexpr int HELD = 4;

// x [T,H], rstd f32 [T], gain [H], dh [T,H], its rows times scale f32 [T] if scaled, dres [T,8R] with R >= H/8, or unread if R is 0
// -> dx [T,H+8X] = [dres + rstd*(gain*dh - x*rstd^2*mean(gain*dh*x)) | 0]. With an offset, gain is
// one more. sizes = {H/8, R, X, offset, scaled}; grid T.
extern "C" __global__ void __launch_bounds__(512)
loris_rmsnorm_backward(const uint4* __restrict__ x, const float* __restrict__ rstd, const uint4* __restrict__ gain,
                       const uint4* __restrict__ dh, const uint4* __restrict__ dres, const float* __restrict__ scale,
                       const int* __restrict__ sizes,
                       uint4* __restrict__ dx) {
  __shared__ float sums[16];
  const int chunks = sizes[0], residual = sizes[1], X = sizes[2], tid = threadIdx.x;
  const size_t row = blockIdx.x, from = row * chunks, to = row * (chunks + X);
  const float r = rstd[row], offset = sizes[3] ? 1.f : 0.f, s = sizes[4] ? scale[row] : 1.f;
  uint4 heldX[HELD], heldD[HELD], heldR[HELD];
  float sum = 0;
#pragma unroll
  for (int k = 0; k < HELD; k++) {
    const int c = tid + k * blockDim.x;
    if (c < chunks) {
      heldX[k] = x[from + c];
      heldD[k] = dh[from + c];
      heldR[k] = residual ? dres[row * residual + c] : make_uint4(0, 0, 0, 0);
    }
  }
#pragma unroll
  for (int k = 0; k < HELD; k++) {
    const int c = tid + k * blockDim.x;
    if (c < chunks) {
      float a[8], d[8], g[8];
      widen(a, heldX[k]);
      widen(d, heldD[k]);
      widen(g, gain[c]);
#pragma unroll
      for (int i = 0; i < 8; i++) g[i] += offset, d[i] *= s;
#pragma unroll
      for (int i = 0; i < 8; i++) sum += a[i] * d[i] * g[i];
    }
  }
  const float mean = blockSum(sum, sums) / (8 * chunks) * r * r;
#pragma unroll
  for (int k = 0; k < HELD; k++) {
    const int c = tid + k * blockDim.x;
    if (c < chunks) {
      float a[8], d[8], g[8], f[8];
      widen(a, heldX[k]);
      widen(d, heldD[k]);
      widen(g, gain[c]);
#pragma unroll
      for (int i = 0; i < 8; i++) g[i] += offset, d[i] *= s;
      widen(f, heldR[k]);
#pragma unroll
      for (int i = 0; i < 8; i++) f[i] += r * (d[i] * g[i] - a[i] * mean);
      dx[to + c] = narrow(f);
    }
  }
  for (int i = tid; i < X; i += blockDim.x) dx[to + chunks + i] = make_uint4(0, 0, 0, 0);
}
