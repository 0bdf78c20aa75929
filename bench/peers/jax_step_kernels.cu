// Kernels of jax_step.py: NF4 dequantize, RMSNorm and SwiGLU forward and backward, RoPE backward.
//
// jax_step.py compiles each to PTX of its own (nvcc -ptx -arch=sm_90 -O3 -DK_NAME) and calls it by __gpu$xla.gpu.ptx. Operands and
// results are pointers; sizes come in an s32 operand. Tensors are row-major, bfloat16 unless told; a chunk is 8 numbers of
// bfloat16, 16 bytes. X is the chunks of a row that pad it, where factors of the adapters go or zeros.
#include <stdint.h>

typedef uint32_t u32;
typedef uint16_t u16;

// Of two numbers of bfloat16 in a word, the first and the second; and one alone.
__device__ __forceinline__ float low(u32 v) { return __uint_as_float(v << 16); }
__device__ __forceinline__ float high(u32 v) { return __uint_as_float(v & 0xffff0000u); }
__device__ __forceinline__ float widen(u16 v) { return __uint_as_float(((u32)v) << 16); }

__device__ __forceinline__ u32 pack(float first, float second) {
  u32 d;
  asm("cvt.rn.bf16x2.f32 %0,%1,%2;" : "=r"(d) : "f"(second), "f"(first));
  return d;
}

__device__ __forceinline__ void widen(const uint4& chunk, float* f) {
  f[0] = low(chunk.x), f[1] = high(chunk.x), f[2] = low(chunk.y), f[3] = high(chunk.y);
  f[4] = low(chunk.z), f[5] = high(chunk.z), f[6] = low(chunk.w), f[7] = high(chunk.w);
}

__device__ __forceinline__ uint4 narrow(const float* f) {
  uint4 o;
  o.x = pack(f[0], f[1]), o.y = pack(f[2], f[3]), o.z = pack(f[4], f[5]), o.w = pack(f[6], f[7]);
  return o;
}

__device__ __forceinline__ float rounded(float v) { return low(pack(v, 0.f)); }

// The sum over the 256 threads of a block.
__device__ __forceinline__ float block_sum(float v, float* memory) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
  if ((threadIdx.x & 31) == 0) memory[threadIdx.x >> 5] = v;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) total += memory[i];
  return total;
}

#ifdef K_nf4_dequantize
__constant__ float NF4[16] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
                              -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
                              0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
                              0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

__device__ __forceinline__ u32 permute(u32 a, u32 b, u32 selector) {
  u32 d;
  asm("prmt.b32 %0,%1,%2,%3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
  return d;
}

// The 16 products of a code and a block's scale, as planes of their bytes: looking one up is a few byte permutations.
struct Table {
  u32 high[4], low[4];
};

// Of the eight lanes that share a block each makes two products, from codes a and b.
__device__ __forceinline__ void make_table(Table& t, float a, float b, float scale, int lane) {
  u32 own = pack(a * scale, b * scale), v[8];
#pragma unroll
  for (int j = 0; j < 8; j++) v[j] = __shfl_sync(0xffffffffu, own, (lane & 24) + j);
#pragma unroll
  for (int j = 0; j < 4; j++) {
    t.low[j] = permute(v[2 * j], v[2 * j + 1], 0x6420);
    t.high[j] = permute(v[2 * j], v[2 * j + 1], 0x7531);
  }
}

// Low and high bytes of the products of four codes.
__device__ __forceinline__ void look_up(const Table& t, u32 codes, u32& l, u32& h) {
  u32 select = codes & 0x7777u, half = ((codes >> 1) & 0x4444u) | 0x3210u;
  l = permute(permute(t.low[0], t.low[1], select), permute(t.low[2], t.low[3], select), half);
  h = permute(permute(t.high[0], t.high[1], select), permute(t.high[2], t.high[3], select), half);
}

// A chunk from eight codes, of which a byte has numbers i and i+4.
__device__ __forceinline__ uint4 look_up_chunk(const Table& t, u32 codes) {
  u32 l0, h0, l1, h1;
  look_up(t, codes, l0, h0);
  look_up(t, codes >> 16, l1, h1);
  uint4 o;
  o.x = permute(l0, h0, 0x6240);
  o.z = permute(l0, h0, 0x7351);
  o.y = permute(l1, h1, 0x6240);
  o.w = permute(l1, h1, 0x7351);
  return o;
}

constexpr int CHUNKS = 4; // of a thread

// codes u8 [R,I] (low nibbles are row r, high ones row r+R), scales [2R,I/64] -> out [2R,I+8X] with tail [2R,8X] in the last columns,
// or with X = 0 [2R+below,I] with tail [below,I] in the last rows. sizes = {R, I, X, below}; grid R*I/8/1024.
extern "C" __global__ void __launch_bounds__(256)
nf4_dequantize(const uint2* __restrict__ codes, const u16* __restrict__ scales, const uint4* __restrict__ tail,
               const int* __restrict__ sizes, uint4* __restrict__ out) {
  const int R = sizes[0], I = sizes[1], X = sizes[2], below = sizes[3];
  const int chunks = I >> 3, blocks = I >> 6, pitch = chunks + X;
  const int lane = threadIdx.x & 31;
  const float a = NF4[2 * (lane & 7)], b = NF4[2 * (lane & 7) + 1];
  const int n = R * chunks;
  const u32 nibbles = 0x0f0f0f0fu;
  int base = blockIdx.x * (256 * CHUNKS) + threadIdx.x;
  if (base - threadIdx.x < n) {
    uint2 x[CHUNKS];
    float scale0[CHUNKS], scale1[CHUNKS];
    int row[CHUNKS], column[CHUNKS];
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
      int i = base + k * 256;
      if (i >= n) i = n - 256 + threadIdx.x; // the last again: all lanes of a warp make tables
      int r = i / chunks, c = i - r * chunks;
      row[k] = r;
      column[k] = c;
      x[k] = __ldcs(codes + i);
      scale0[k] = widen(scales[r * blocks + (c >> 3)]);
      scale1[k] = widen(scales[(r + R) * blocks + (c >> 3)]);
    }
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
      Table t;
      make_table(t, a, b, scale0[k], lane);
      out[(size_t)row[k] * pitch + column[k]] = look_up_chunk(t, (x[k].x & nibbles) | ((x[k].y & nibbles) << 4));
      make_table(t, a, b, scale1[k], lane);
      out[(size_t)(row[k] + R) * pitch + column[k]] = look_up_chunk(t, ((x[k].x >> 4) & nibbles) | (x[k].y & ~nibbles));
    }
  }
  if (below) {
    for (int i = blockIdx.x * 256 + threadIdx.x; i < below * chunks; i += gridDim.x * 256) out[(size_t)2 * R * chunks + i] = tail[i];
  }
  if (X) {
    for (int i = blockIdx.x * 256 + threadIdx.x; i < 2 * R * X; i += gridDim.x * 256) {
      int r = i / X;
      out[(size_t)r * pitch + chunks + (i - r * X)] = tail[i];
    }
  }
}
#endif

#ifdef K_rms_forward
// x [T,D], gain [D], xA f32 [T,n] -> out [T,D+8X] = [x*r*gain | xA*r | 0], r f32 [T], scaled [T,n] = xA*r.
// sizes = {D, n, X}; grid T; D up to 8192.
extern "C" __global__ void __launch_bounds__(256)
rms_forward(const uint4* __restrict__ x, const uint4* __restrict__ gain, const float* __restrict__ xA, const int* __restrict__ sizes,
            uint4* __restrict__ out, float* __restrict__ r, u16* __restrict__ scaled) {
  __shared__ float memory[8];
  const int D = sizes[0], n = sizes[1], X = sizes[2], chunks = D >> 3, pitch = chunks + X;
  const size_t t = blockIdx.x;
  const int thread = threadIdx.x;
  uint4 v[4];
  float sum = 0;
#pragma unroll
  for (int k = 0; k < 4; k++) {
    int c = thread + k * 256;
    if (c < chunks) {
      v[k] = x[t * chunks + c];
      float f[8];
      widen(v[k], f);
#pragma unroll
      for (int i = 0; i < 8; i++) sum += f[i] * f[i];
    }
  }
  sum = block_sum(sum, memory);
  const float scale = rsqrtf(sum / D + 1e-5f);
#pragma unroll
  for (int k = 0; k < 4; k++) {
    int c = thread + k * 256;
    if (c < chunks) {
      float f[8], w[8];
      widen(v[k], f);
      widen(gain[c], w);
#pragma unroll
      for (int i = 0; i < 8; i++) f[i] = rounded(f[i] * scale) * w[i];
      out[t * pitch + c] = narrow(f);
    }
  }
  if (thread == 0) r[t] = scale;
  if (thread < 8 * X) {
    float f = thread < n ? xA[t * n + thread] * scale : 0.f;
    u16 b = (u16)pack(f, 0.f);
    ((u16*)out)[t * pitch * 8 + D + thread] = b;
    if (thread < n) scaled[t * n + thread] = b;
  }
}
#endif

#ifdef K_rms_backward
// x [T,D], r f32 [T], gain [D], dh [T,D], past [T,P], of which the first D columns are the gradient that goes past the norm
// -> dx [T,D+8X] = [past + r*(gain*dh - x*r²*mean(gain*dh*x)) | 0]. sizes = {D, P, X}; grid T; D up to 8192.
extern "C" __global__ void __launch_bounds__(256)
rms_backward(const uint4* __restrict__ x, const float* __restrict__ r, const uint4* __restrict__ gain, const uint4* __restrict__ dh,
             const uint4* __restrict__ past, const int* __restrict__ sizes, uint4* __restrict__ dx) {
  __shared__ float memory[8];
  const int D = sizes[0], chunks = D >> 3, pastPitch = sizes[1] >> 3, X = sizes[2], pitch = chunks + X;
  const size_t t = blockIdx.x;
  const int thread = threadIdx.x;
  const float scale = r[t];
  uint4 v[4], w[4], e[4];
  float sum = 0;
#pragma unroll
  for (int k = 0; k < 4; k++) {
    int c = thread + k * 256;
    if (c < chunks) {
      v[k] = x[t * chunks + c];
      w[k] = dh[t * chunks + c];
      e[k] = past[t * pastPitch + c];
    }
  }
#pragma unroll
  for (int k = 0; k < 4; k++) {
    int c = thread + k * 256;
    if (c < chunks) {
      float a[8], b[8], g[8];
      widen(v[k], a);
      widen(w[k], b);
      widen(gain[c], g);
#pragma unroll
      for (int i = 0; i < 8; i++) sum += a[i] * b[i] * g[i];
    }
  }
  sum = block_sum(sum, memory);
  const float mean = sum / D * scale * scale;
#pragma unroll
  for (int k = 0; k < 4; k++) {
    int c = thread + k * 256;
    if (c < chunks) {
      float a[8], b[8], g[8], d[8];
      widen(v[k], a);
      widen(w[k], b);
      widen(gain[c], g);
      widen(e[k], d);
#pragma unroll
      for (int i = 0; i < 8; i++) d[i] += scale * (b[i] * g[i] - a[i] * mean);
      dx[t * pitch + c] = narrow(d);
    }
  }
  if (thread < X) dx[t * pitch + chunks + thread] = make_uint4(0, 0, 0, 0);
}
#endif

#ifdef K_swiglu_forward
// [gate | up] [T,2F] -> [silu(gate)*up | 0] [T,F+8X]. sizes = {F, X}; grid {F/8/256, T}.
extern "C" __global__ void __launch_bounds__(256)
swiglu_forward(const uint4* __restrict__ gateUp, const int* __restrict__ sizes, uint4* __restrict__ out) {
  const int chunks = sizes[0] >> 3, X = sizes[1];
  const int c = blockIdx.x * 256 + threadIdx.x;
  const size_t t = blockIdx.y;
  const int pitch = chunks + X;
  if (c < X) out[t * pitch + chunks + c] = make_uint4(0, 0, 0, 0);
  if (c >= chunks) return;
  float g[8], u[8];
  widen(gateUp[t * 2 * chunks + c], g);
  widen(gateUp[t * 2 * chunks + chunks + c], u);
#pragma unroll
  for (int i = 0; i < 8; i++) g[i] = g[i] * __fdividef(1.f, 1.f + __expf(-g[i])) * u[i];
  out[t * pitch + c] = narrow(g);
}
#endif

#ifdef K_rope_backward
// dq [T,Q], dk [T,K], dv [T,K], cos and sin f32 [S,64] -> out [T,Q+2K+8X] = [dq | dk | dv | 0] with dq and dk rotated back; heads of 128,
// token t at position t%S. sizes = {Q, K, S, X}; grid T, blocks of 128.
extern "C" __global__ void __launch_bounds__(128)
rope_backward(const uint4* __restrict__ dq, const uint4* __restrict__ dk, const uint4* __restrict__ dv, const float4* __restrict__ cos,
              const float4* __restrict__ sin, const int* __restrict__ sizes, uint4* __restrict__ out) {
  const int Q = sizes[0] >> 3, K = sizes[1] >> 3, S = sizes[2], X = sizes[3], pitch = Q + 2 * K + X;
  const size_t t = blockIdx.x;
  const int position = (int)(t % S);
  for (int i = threadIdx.x; i < (Q + K) / 2; i += 128) { // chunk j of a head's first half, and of its second
    int h = i >> 3, j = i & 7;
    int c = h * 16 + j;
    const uint4* from = c < Q ? dq + t * Q + c : dk + t * K + (c - Q);
    float a[8], b[8], C[8], N[8], first[8], second[8];
    widen(from[0], a);
    widen(from[8], b);
    *(float4*)C = cos[position * 16 + j * 2];
    *(float4*)(C + 4) = cos[position * 16 + j * 2 + 1];
    *(float4*)N = sin[position * 16 + j * 2];
    *(float4*)(N + 4) = sin[position * 16 + j * 2 + 1];
#pragma unroll
    for (int k = 0; k < 8; k++) {
      first[k] = a[k] * C[k] + b[k] * N[k];
      second[k] = b[k] * C[k] - a[k] * N[k];
    }
    out[t * pitch + c] = narrow(first);
    out[t * pitch + c + 8] = narrow(second);
  }
  for (int i = threadIdx.x; i < K; i += 128) out[t * pitch + Q + K + i] = dv[t * K + i];
  if (threadIdx.x < X) out[t * pitch + Q + 2 * K + threadIdx.x] = make_uint4(0, 0, 0, 0);
}
#endif

#ifdef K_swiglu_backward
__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void load_matrix(u32* r, u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}

__device__ __forceinline__ void load_transposed(u32* r, u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}

__device__ __forceinline__ void multiply(float* c, const u32* a, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void add_to_memory(float* p, float a, float b) {
  asm volatile("red.relaxed.gpu.global.add.v2.f32 [%0],{%1,%2};" ::"l"(p), "f"(a), "f"(b) : "memory");
}

constexpr int PITCH = 136, X_PITCH = 40, P_PITCH = 24; // of rows of 128, 32 and 16 numbers in shared memory, free of bank conflicts

// SwiGLU backward, and the products of rank 16 beside it while gate, up and d(act) are at hand.
// gateUp [T,2F], dact [T,F], B [2F+64,32] (gate's and up's, block-diagonal), xA [T,32] (of gate and up), dyB [T,16] (of down), zero f32
// [T,32], which is P's memory -> d [T,2F+64] = [dgate | dup | 0], P f32 [T,32] += d·B, dB f32 [splits,2F,16] = dᵀ·xA,
// dA f32 [splits,F,16] = actᵀ·dyB. sizes = {F, T, splits}; grid {F/128, splits}; T/splits is a multiple of 64.
extern "C" __global__ void __launch_bounds__(256, 2)
swiglu_backward(const uint4* __restrict__ gateUp, const uint4* __restrict__ dact, const u16* __restrict__ B, const uint4* __restrict__ xA,
                const uint4* __restrict__ dyB, const float* zero, const int* __restrict__ sizes, uint4* __restrict__ d, float* __restrict__ P,
                float* __restrict__ dB, float* __restrict__ dA) {
  extern __shared__ __align__(16) u16 memory[];
  u16 *sG = memory, *sU = sG + 64 * PITCH, *sA = sU + 64 * PITCH, *sB = sA + 64 * PITCH, *sX = sB + 32 * PITCH, *sP = sX + 64 * X_PITCH;
  const int F = sizes[0], T = sizes[1], splits = sizes[2], chunks = F >> 3, pairs = 2 * chunks, pitch = pairs + 8;
  const int f0 = blockIdx.x * 128, thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  for (int i = thread; i < 128 * 16; i += 256) {
    int f = i >> 4, n = i & 15;
    sB[n * PITCH + f] = B[(size_t)(f0 + f) * 32 + n];
    sB[(16 + n) * PITCH + f] = B[(size_t)(F + f0 + f) * 32 + 16 + n];
  }
  const int tokens = T / splits, from = blockIdx.y * tokens;
  const int row = thread >> 4, chunk = thread & 15, column = (f0 >> 3) + chunk;
  uint4 G[4], U[4], D[4];
  auto load = [&](int t0) {
#pragma unroll
    for (int k = 0; k < 4; k++) {
      size_t t = t0 + row + 16 * k;
      G[k] = __ldcs(gateUp + t * pairs + column);
      U[k] = __ldcs(gateUp + t * pairs + chunks + column);
      D[k] = __ldcs(dact + t * chunks + column);
    }
  };
  load(from);
  float acc[3][2][4]; // of dB's gate and up, and of dA: the warp's 16 features by 16
#pragma unroll
  for (int i = 0; i < 24; i++) ((float*)acc)[i] = 0.f;
  // Where a lane reads matrices: transposed gradients (k is a token, m a feature), xA and dyB; then a warp's 16 tokens of gate's or
  // up's gradients, and their B.
  const int li = lane & 7, lj = lane >> 3;
  const u32 oT = ((li + ((lj >> 1) << 3)) * PITCH + warp * 16 + ((lj & 1) << 3)) * 2;
  const u32 oX = ((li + ((lj & 1) << 3)) * X_PITCH + ((lj >> 1) << 3)) * 2, oP = ((li + ((lj & 1) << 3)) * P_PITCH + ((lj >> 1) << 3)) * 2;
  const int tile = warp & 3, half = warp >> 2;
  const u32 oR = ((tile * 16 + li + ((lj & 1) << 3)) * PITCH + ((lj >> 1) << 3)) * 2;
  const u32 oB = ((half * 16 + li + ((lj >> 1) << 3)) * PITCH + ((lj & 1) << 3)) * 2;
  const u32 aG = shared_address(sG), aU = shared_address(sU), aA = shared_address(sA), aB = shared_address(sB), aX = shared_address(sX),
            aP = shared_address(sP), aM = half ? aU : aG;
  for (int t0 = from; t0 < from + tokens; t0 += 64) {
#pragma unroll
    for (int k = 0; k < 4; k++) {
      float g[8], u[8], dy[8], a[8];
      widen(G[k], g);
      widen(U[k], u);
      widen(D[k], dy);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        float sigmoid = __fdividef(1.f, 1.f + __expf(-g[i])), silu = g[i] * sigmoid;
        a[i] = silu * u[i];
        float du = dy[i] * silu;
        g[i] = dy[i] * u[i] * sigmoid * (1.f + g[i] * (1.f - sigmoid));
        u[i] = du;
      }
      uint4 og = narrow(g), ou = narrow(u), oa = narrow(a);
      size_t t = t0 + row + 16 * k;
      d[t * pitch + column] = og;
      d[t * pitch + chunks + column] = ou;
      int s = (row + 16 * k) * PITCH + chunk * 8;
      *(uint4*)(sG + s) = og;
      *(uint4*)(sU + s) = ou;
      *(uint4*)(sA + s) = oa;
    }
    {
      int r = thread >> 2, q = thread & 3;
      *(uint4*)(sX + r * X_PITCH + q * 8) = xA[(size_t)(t0 + r) * 4 + q];
      if (thread < 128) {
        int r2 = thread >> 1, q2 = thread & 1;
        *(uint4*)(sP + r2 * P_PITCH + q2 * 8) = dyB[(size_t)(t0 + r2) * 2 + q2];
      }
    }
    if (blockIdx.x == 0) {
      for (int i = thread; i < 512; i += 256) d[(size_t)(t0 + (i >> 3)) * pitch + pairs + (i & 7)] = make_uint4(0, 0, 0, 0);
    }
    __syncthreads();
    if (t0 + 64 < from + tokens) load(t0 + 64);
#pragma unroll
    for (int k = 0; k < 4; k++) {
      u32 a[4], b[4];
      load_transposed(b, aX + oX + k * 16 * 2 * X_PITCH);
      load_transposed(a, aG + oT + k * 16 * 2 * PITCH);
      multiply(acc[0][0], a, b[0], b[1]);
      multiply(acc[0][1], a, b[2], b[3]);
      load_transposed(b, aX + oX + k * 16 * 2 * X_PITCH + 32);
      load_transposed(a, aU + oT + k * 16 * 2 * PITCH);
      multiply(acc[1][0], a, b[0], b[1]);
      multiply(acc[1][1], a, b[2], b[3]);
      load_transposed(b, aP + oP + k * 16 * 2 * P_PITCH);
      load_transposed(a, aA + oT + k * 16 * 2 * PITCH);
      multiply(acc[2][0], a, b[0], b[1]);
      multiply(acc[2][1], a, b[2], b[3]);
    }
    float p[2][4];
#pragma unroll
    for (int i = 0; i < 8; i++) ((float*)p)[i] = 0.f;
#pragma unroll
    for (int k = 0; k < 8; k++) {
      u32 a[4], b[4];
      load_matrix(a, aM + oR + k * 32);
      load_matrix(b, aB + oB + k * 32);
      multiply(p[0], a, b[0], b[1]);
      multiply(p[1], a, b[2], b[3]);
    }
#pragma unroll
    for (int n = 0; n < 2; n++) {
      float* q = P + (size_t)(t0 + tile * 16 + (lane >> 2)) * 32 + half * 16 + n * 8 + 2 * (lane & 3);
      add_to_memory(q, p[n][0], p[n][1]);
      add_to_memory(q + 8 * 32, p[n][2], p[n][3]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int m = 0; m < 3; m++) {
#pragma unroll
    for (int n = 0; n < 2; n++) {
      int f = f0 + warp * 16 + (lane >> 2), c = n * 8 + 2 * (lane & 3);
      float* q = m < 2 ? dB + ((size_t)blockIdx.y * 2 * F + (m ? F : 0) + f) * 16 + c : dA + ((size_t)blockIdx.y * F + f) * 16 + c;
      *(float2*)q = make_float2(acc[m][n][0], acc[m][n][1]);
      *(float2*)(q + 8 * 16) = make_float2(acc[m][n][2], acc[m][n][3]);
    }
  }
}
#endif
