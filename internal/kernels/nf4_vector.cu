// The product of one row with a 4-bit weight. A block takes tiles of ROWS bytes' rows, 2 ROWS outputs, its warps take turns
// along the inputs, and a lane decodes 16 bytes of each row at a time.
#include "gated.cuh"
#include "product.cuh"

constexpr int VECTOR_WARPS = 8, ROWS = 8, LANE_INPUTS = 16, STRIDE = 32 * LANE_INPUTS;

// halve leaves of twice HALF numbers of each lane half, the lower or the upper ones, with those of the lane that it leaves the
// others to.
template <int HALF> __device__ __forceinline__ void halve(float* sum) {
  const bool upper = threadIdx.x & (2 * HALF);
#pragma unroll
  for (int k = 0; k < HALF; k++) {
    const float away = upper ? sum[k] : sum[k + HALF], keep = upper ? sum[k + HALF] : sum[k];
    sum[k] = keep + __shfl_xor_sync(0xffffffffu, away, 2 * HALF);
  }
}

// x [1,I], codes u8 [R*I], the scales, low [1,n], tail [2R,n], residual [2R] -> y [1,2R] = x Wᵀ + low tailᵀ + residual, or
// gated y [1,R] = act(lower half) * upper half. sizes = {R, I, n, log2(blocksize/64), type, group shift or -1, what then: 0 nothing,
// 1 add the residual, 2 SwiGLU, 3 GeGLU, whether x is normalized first with gain [I], bits of eps, whether gain is one more};
// dynamic shared memory: I numbers if x is normalized.
extern "C" __global__ void __launch_bounds__(32 * VECTOR_WARPS, 3)
loris_nf4_vector(const u16* __restrict__ x, const uint4* __restrict__ codes, const void* __restrict__ scaleCodes,
                 const float* __restrict__ absmax, const float* __restrict__ offset, const float* __restrict__ map,
                 const u16* __restrict__ low, const u16* __restrict__ tail, const u16* __restrict__ residual,
                 const u16* __restrict__ gain, const int* __restrict__ sizes, u16* __restrict__ y) {
  DYNAMIC_SHARED(normalized);
  __shared__ float2 table[256 * TABLE_COPIES];
  __shared__ float sums[2][VECTOR_WARPS + 1][2 * ROWS];
  const int R = sizes[0], I = sizes[1], n = sizes[2], blockShift = sizes[3], then = sizes[6], gating = then >= 2;
  const MaybeNestedScales scales{scaleCodes, absmax, offset, map, sizes[5]};
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, blocks = I / 64;
  fillTable(table, sizes[4], [](float lower, float upper) { return make_float2(lower, upper); });
  if (sizes[7]) { // meanwhile the first weights come
    for (int i = 0; i < ROWS; i++) {
      const u32 row = min((int)blockIdx.x * ROWS + i, R - 1);
      const int column = warp * STRIDE + lane * LANE_INPUTS;
      if (column < I) fetch(codes + row * (I / LANE_INPUTS) + column / LANE_INPUTS);
    }
    const int offset = sizes[9];
    float sum = 0;
    for (int c = threadIdx.x; c < I / 8; c += blockDim.x) {
      float f[8];
      widen(f, ((const uint4*)x)[c]);
#pragma unroll
      for (int i = 0; i < 8; i++) sum += f[i] * f[i];
    }
    const float r = rsqrtf(blockSum(sum, sums[0][0]) / I + __int_as_float(sizes[8]));
    for (int c = threadIdx.x; c < I / 8; c += blockDim.x) {
      float f[8], g[8];
      widen(f, ((const uint4*)x)[c]);
      widen(g, ((const uint4*)gain)[c]);
#pragma unroll
      for (int i = 0; i < 8; i++) f[i] = offset ? f[i] * r * (1.f + g[i]) : rounded(f[i] * r) * g[i];
      ((uint4*)normalized)[c] = narrow(f);
    }
  }
  __syncthreads();
  const u16* input = sizes[7] ? normalized : x;
  const float2* own = table + (lane & (TABLE_COPIES - 1));

  int buffer = 0;
  for (int first = blockIdx.x * ROWS; first < R; first += gridDim.x * ROWS, buffer ^= 1) {
    float sum[2 * ROWS] = {}; // lower and upper output of each row
    for (int begin = warp * STRIDE; begin < I; begin += VECTOR_WARPS * STRIDE) {
      const int column = begin + lane * LANE_INPUTS;
      const bool inside = column < I;
      uint4 q[ROWS];
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        const u32 row = min(first + i, R - 1);
        q[i] = inside ? __ldcs(codes + row * (I / LANE_INPUTS) + column / LANE_INPUTS) : make_uint4(0, 0, 0, 0);
      }
      float f[LANE_INPUTS] = {};
      if (inside) {
        widen(f, *(const uint4*)(input + column));
        widen(f + 8, *(const uint4*)(input + column + 8));
      }
      // Four lanes share their scales: each fetches those of two rows.
      float scale[4];
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const int row = min(first + 2 * (lane & 3) + k / 2, R - 1) + k % 2 * R;
        scale[k] = inside ? scales(((u32)row * blocks + column / 64) >> blockShift) : 0.f;
      }
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        const u32 words[4] = {q[i].x, q[i].y, q[i].z, q[i].w};
        float lower = 0, upper = 0;
#pragma unroll
        for (int j = 0; j < LANE_INPUTS; j++) {
          const float2 w = own[__byte_perm(words[j / 4], 0, 0x4440 + j % 4) * TABLE_COPIES];
          lower += w.x * f[j];
          upper += w.y * f[j];
        }
        const int from = (lane & ~3) + i / 2;
        sum[2 * i] += lower * __shfl_sync(0xffffffffu, scale[i % 2 * 2], from);
        sum[2 * i + 1] += upper * __shfl_sync(0xffffffffu, scale[i % 2 * 2 + 1], from);
      }
    }
    if (n) { // 16 threads for each output
      const int o = threadIdx.x / 16, row = min(first + o / 2, R - 1) + o % 2 * R;
      float more = 0;
      for (int c = threadIdx.x % 16; c < n / 8; c += 16) {
        float a[8], b[8];
        widen(a, *(const uint4*)(low + 8 * c));
        widen(b, *(const uint4*)(tail + (size_t)row * n + 8 * c));
#pragma unroll
        for (int j = 0; j < 8; j++) more += a[j] * b[j];
      }
#pragma unroll
      for (int lanes = 8; lanes; lanes >>= 1) more += __shfl_xor_sync(0xffffffffu, more, lanes);
      if (threadIdx.x % 16 == 0) sums[buffer][VECTOR_WARPS][o] = more;
    }
    halve<8>(sum), halve<4>(sum), halve<2>(sum), halve<1>(sum); // then lanes 2o and 2o+1 have parts of output o
    sum[0] += __shfl_xor_sync(0xffffffffu, sum[0], 1);
    if (lane % 2 == 0) sums[buffer][warp][lane / 2] = sum[0];
    __syncthreads();
    const int o = threadIdx.x, i = first + (gating ? o : o / 2);
    if (o < (gating ? ROWS : 2 * ROWS) && i < R) {
      auto total = [&](int k) {
        float v = 0;
        for (int w = 0; w < VECTOR_WARPS + (n > 0); w++) v += sums[buffer][w][k];
        return v;
      };
      float v;
      int to = i;
      if (gating) {
        const float gate = rounded(total(2 * o));
        v = gate * sigmoid(then == 2 ? SiLU::inner(gate) : GELUTanh::inner(gate)) * rounded(total(2 * o + 1));
      } else {
        to += o % 2 * R;
        v = total(o);
        if (then == 1) v += __uint_as_float((u32)residual[to] << 16);
      }
      y[to] = (u16)pack(v, 0.f);
    }
  }
}
