// A host's stand-in for the parts of CUDA that the kernels use. The threads of a block are coroutines, resumed one after the
// other; each runs until it waits for its warp or its block. Warp operations need all 32 threads.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __constant__ static const
#define __shared__ static
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(name) u16* name = (u16*)emulation.dynamicShared

struct alignas(8) uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

[[noreturn]] inline void fail(const char* message) {
  fprintf(stderr, "emulation: %s (block %u,%u thread %u)\n", message, blockIdx.x, blockIdx.y, threadIdx.x);
  exit(1);
}

// What a thread of a warp hands to the others: registers or an address.
struct Slot { u32 a[4], b[2]; const void* address; };

// A copy to shared memory that was started.
struct Copy { void* to; const void* from; int group; };

struct Thread {
  ucontext_t context;
  std::vector<char> stack;
  enum { READY, AT_WARP, AT_BLOCK, DONE } state;
  Slot slot;
  std::vector<Copy> copies;
  int groups; // of copies
};

struct Emulation {
  std::vector<Thread> threads;
  ucontext_t scheduler;
  void* dynamicShared = nullptr;
  std::function<void()> kernel;

  Thread& current() { return threads[threadIdx.x]; }
  Slot& lane(unsigned i) { return threads[(threadIdx.x & ~31u) + i].slot; }

  void wait(decltype(Thread::state) where) {
    Thread& t = current();
    t.state = where;
    swapcontext(&t.context, &scheduler);
  }

  static void body();

  // runBlock runs all threads of a block to their end.
  void runBlock() {
    for (Thread& t : threads) {
      t.stack.resize(1 << 16);
      getcontext(&t.context);
      t.context.uc_stack.ss_sp = t.stack.data();
      t.context.uc_stack.ss_size = t.stack.size();
      t.context.uc_link = &scheduler;
      t.state = Thread::READY;
      t.copies.clear();
      t.groups = 0;
      makecontext(&t.context, body, 0);
    }
    while (true) {
      bool ran = false;
      for (unsigned i = 0; i < threads.size(); i++) {
        if (threads[i].state != Thread::READY) continue;
        ran = true;
        threadIdx = {i, 0, 0};
        swapcontext(&scheduler, &threads[i].context);
      }
      size_t atBlock = 0, done = 0;
      bool released = false;
      for (size_t warp = 0; warp < threads.size(); warp += 32) {
        size_t atWarp = 0;
        for (size_t i = warp; i < warp + 32; i++) {
          atWarp += threads[i].state == Thread::AT_WARP;
          atBlock += threads[i].state == Thread::AT_BLOCK;
          done += threads[i].state == Thread::DONE;
        }
        if (atWarp != 32) continue;
        released = true;
        for (size_t i = warp; i < warp + 32; i++) threads[i].state = Thread::READY;
      }
      if (done == threads.size()) return;
      if (atBlock == threads.size()) {
        released = true;
        for (Thread& t : threads) t.state = Thread::READY;
      }
      if (!released && !ran) fail("threads wait for others that do not come");
    }
  }
};
static Emulation emulation;
inline void Emulation::body() {
  emulation.kernel();
  emulation.current().state = Thread::DONE;
}

inline void __syncthreads() { emulation.wait(Thread::AT_BLOCK); }
inline void syncWarp() { emulation.wait(Thread::AT_WARP); }

template <class T> T __shfl_sync(unsigned, T v, int lane) {
  static_assert(sizeof(T) == 4, "a register");
  memcpy(&emulation.current().slot.a[0], &v, 4);
  syncWarp();
  memcpy(&v, &emulation.lane(lane & 31).a[0], 4);
  syncWarp();
  return v;
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int lanes) { return __shfl_sync(mask, v, (threadIdx.x & 31) ^ lanes); }

template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcs(const T* p) { return *p; }
template <class T> void __stcs(T* p, T v) { *p = v; }
inline float __uint_as_float(u32 v) { float f; memcpy(&f, &v, 4); return f; }
inline u32 __float_as_uint(float f) { u32 v; memcpy(&v, &f, 4); return v; }
inline float __int_as_float(int v) { return __uint_as_float((u32)v); }
inline float __expf(float x) { return expf(x); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline int min(int a, int b) { return a < b ? a : b; }
inline void atomicAdd(float* p, float v) { *p += v; }

inline u32 __byte_perm(u32 a, u32 b, u32 selectors) {
  const uint64_t bytes = (uint64_t)b << 32 | a;
  u32 r = 0;
  for (int i = 0; i < 4; i++) {
    const u32 s = selectors >> 4 * i;
    u32 byte = bytes >> 8 * (s & 7) & 255;
    if (s & 8) byte = byte & 128 ? 255 : 0;
    r |= byte << 8 * i;
  }
  return r;
}

inline u32 roundToBF16(float f) {
  u32 v;
  memcpy(&v, &f, 4);
  if (std::isnan(f)) return 0x7fff;
  return (v + 0x7fff + (v >> 16 & 1)) >> 16;
}
inline u32 pack(float low, float high) { return roundToBF16(low) | roundToBF16(high) << 16; }
// roundToE4M3 rounds to nearest even; beyond 448 it is 448.
inline u32 roundToE4M3(float f) {
  if (std::isnan(f)) return 0x7f;
  const u32 sign = std::signbit(f) ? 128 : 0;
  const float a = fminf(fabsf(f), 448);
  if (a == 0) return sign;
  int exponent;
  frexpf(a, &exponent);                              // a < 2^exponent
  exponent = exponent - 1 > -6 ? exponent - 1 : -6;  // subnormal numbers have that of the smallest normal one
  const u32 n = (u32)nearbyintf(ldexpf(a, 3 - exponent)); // eighths
  return sign | (n + 8 * (u32)(exponent + 6));
}
inline u32 packE4M3(float low, float high) { return roundToE4M3(low) | roundToE4M3(high) << 8; }
inline float element(u32 pair, int i) { return __uint_as_float(i ? pair & 0xffff0000u : pair << 16); }

// below and addKept are those of dropout.cuh.
inline u32 below(u32 draws, u32 thresholds) {
  draws &= 0x7fff7fffu;
  return ((draws & 0xffff) < (thresholds & 0xffff) ? 0xffffu : 0u) | (draws >> 16 < thresholds >> 16 ? 0xffff0000u : 0u);
}
inline void addKept(float* sums, const float* v, u32 draws, u32 thresholds) {
  const u32 dropped = below(draws, thresholds);
  if (!(dropped & 0xffff)) sums[0] += v[0];
  if (!(dropped >> 16)) sums[1] += v[1];
}

inline float power(float x) { return x < -126 ? 0 : exp2f(x); }
inline float inverse(float x) { return 1 / x; }

// larger is that of cross_entropy.cu.
inline u32 larger(u32 a, u32 b) {
  auto half = [=](int i) { return __float_as_uint(fmaxf(element(a, i), element(b, i))); };
  return half(0) >> 16 | half(1);
}

typedef uintptr_t SharedAddress;
inline SharedAddress shared(const void* p) { return (SharedAddress)p; }

// A copy is made when it is waited for; until then there are NaNs, for whoever reads too early, or what is overwritten too early.
inline void copyAsync(SharedAddress to, const void* from, bool exists) {
  memset((void*)to, 0xff, 16);
  emulation.current().copies.push_back({(void*)to, exists ? from : nullptr, emulation.current().groups});
}
inline void commitCopies() { emulation.current().groups++; }
inline void awaitCopiesBefore(int group) {
  std::vector<Copy> later;
  for (const Copy& c : emulation.current().copies) {
    if (c.group >= group) later.push_back(c);
    else if (c.from) memcpy(c.to, c.from, 16);
    else memset(c.to, 0, 16);
  }
  emulation.current().copies.swap(later);
}
inline void awaitCopies() { awaitCopiesBefore(emulation.current().groups + 1); }
template <int LATER> void awaitCopiesBut() { awaitCopiesBefore(emulation.current().groups - LATER); }

inline void load4(u32* r, SharedAddress row, bool transposed) {
  if (row % 16) fail("a matrix row is not aligned to 16 bytes");
  emulation.current().slot.address = (const void*)row;
  syncWarp();
  const unsigned lane = threadIdx.x & 31, major = lane / 4, minor = lane % 4 * 2;
  for (unsigned i = 0; i < 4; i++) {
    u16 v[2];
    for (unsigned k = 0; k < 2; k++) {
      const unsigned from = transposed ? minor + k : major, column = transposed ? major : minor + k;
      v[k] = ((const u16*)emulation.lane(8 * i + from).address)[column];
    }
    r[i] = v[0] | (u32)v[1] << 16;
  }
  syncWarp();
}
inline void matrices(u32* r, SharedAddress row) { load4(r, row, false); }
inline void matricesTransposed(u32* r, SharedAddress row) { load4(r, row, true); }

inline void multiply(float* c, const u32* a, u32 b0, u32 b1) {
  Slot& own = emulation.current().slot;
  memcpy(own.a, a, sizeof own.a);
  own.b[0] = b0, own.b[1] = b1;
  syncWarp();
  const unsigned lane = threadIdx.x & 31;
  for (unsigned i = 0; i < 4; i++) {
    const unsigned row = lane / 4, rowHalf = i / 2, column = lane % 4 * 2 + i % 2;
    for (unsigned k = 0; k < 16; k++) {
      const unsigned pair = k % 8 / 2, kHalf = k / 8;
      const float x = element(emulation.lane(row * 4 + pair).a[rowHalf + 2 * kHalf], k % 2);
      const float y = element(emulation.lane(column * 4 + pair).b[kHalf], k % 2);
      c[i] += x * y;
    }
  }
  syncWarp();
}
