// Adds up what kernels leave of p = dy b and db = dy^T low in parts, and puts it where it belongs: p, rounded, behind dy too.
#include "device.cuh"

constexpr int THREADS = 256, FACTORS = 3;
constexpr int HEAD = 9, EACH = 8; // sizes before the factors', and of each

// p f32 [.,T,Q], db f32 [groups,O,D], rstd f32 [T] if scaled -> dy [T,8W], in place, its columns from O on, if it rides;
// low [T,N] = p, scaled [T,N] = p*rstd if scaled, and of each factor db times its scale, f32 [rows,R].
// sizes = {T, 8W, O, N, Q, groups, D, rides, scaled, then for each factor: first column of dy, rows, R, a multiple of 4 up to 16, first
// column of low, scale, first part of p, parts, first column of them}; a factor that is not there has no rows. A thread has four
// ranks of a token or a row; grid: T and rows of all factors, times 4, over THREADS.
extern "C" __global__ void __launch_bounds__(THREADS)
loris_factor_sums(const float* __restrict__ p, const float* __restrict__ db, const u16*, const float* __restrict__ rstd, const int* __restrict__ sizes,
                  u16* __restrict__ dy, u16* __restrict__ low, u16* __restrict__ scaled, float* __restrict__ db0, float* __restrict__ db1,
                  float* __restrict__ db2) {
  const int T = sizes[0], O = sizes[2], N = sizes[3], Q = sizes[4], D = sizes[6];
  int i = blockIdx.x * THREADS + threadIdx.x;
  for (int factor = 0; factor < FACTORS; factor++) {
    const int* own = sizes + HEAD + EACH * factor;
    const int rows = own[1], R = own[2], rank = 4 * (i & 3), at = i >> 2;
    const bool ofP = at < T;
    if (rows > 0 && at < T + rows) {
      if (rank >= R) return;
      const float* from = ofP ? p + ((size_t)own[5] * T + at) * Q + own[7] + rank : db + (size_t)(own[0] + at - T) * D + rank;
      const size_t next = ofP ? (size_t)T * Q : (size_t)O * D;
      const int parts = ofP ? own[6] : sizes[5];
      float sum[4] = {};
#pragma unroll 4
      for (int k = 0; k < parts; k++) {
        const float4 v = *(const float4*)(from + k * next);
        sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
      }
      if (!ofP) {
        const float scale = __int_as_float(own[4]);
        float* to = (factor == 0 ? db0 : factor == 1 ? db1 : db2) + (size_t)(at - T) * R + rank;
        *(float4*)to = make_float4(sum[0] * scale, sum[1] * scale, sum[2] * scale, sum[3] * scale);
        return;
      }
      const uint2 v = make_uint2(pack(sum[0], sum[1]), pack(sum[2], sum[3]));
      const size_t to = (size_t)at * N + own[3] + rank;
      *(uint2*)(low + to) = v;
      if (sizes[7]) *(uint2*)(dy + (size_t)at * sizes[1] + O + own[3] + rank) = v;
      if (sizes[8]) {
        const float r = rstd[at];
        *(uint2*)(scaled + to) = make_uint2(pack(lowHalf(v.x) * r, highHalf(v.x) * r), pack(lowHalf(v.y) * r, highHalf(v.y) * r));
      }
      return;
    }
    if (rows > 0) i -= 4 * (T + rows);
  }
}
