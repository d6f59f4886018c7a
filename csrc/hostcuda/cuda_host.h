// CUDA kernels on the CPU, for proof and not for speed: a thread of the operating system per CUDA
// thread of a block, so that the sanitizers watch the kernel itself. ASan sees a read outside an
// array, TSan a missing barrier or a lost atomic, UBSan a bad shift or cast.
//
// Blocks run one after another, so nothing is found of how blocks race with each other, and shared
// memory is one static array that is reused. Warps are 32 neighbouring threads; all lanes that a
// warp function names must call it, which for us is always all lanes of the warp that exist.

#pragma once

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  unsigned count() const { return x * y * z; }
};

using std::exp;
using std::fabs;
using std::fma;
using std::frexp;
using std::ldexp;
using std::log1p;
using std::max;
using std::memcpy;
using std::min;
using std::rint;

inline thread_local dim3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace hostcuda {

// Two barriers taken in turn: a thread that leaves one late must not see what others did before the
// next, or TSan would take that for an order and miss races.
class Barrier {
 public:
  explicit Barrier(unsigned threads) {
    for (auto& barrier : barriers_) pthread_barrier_init(&barrier, nullptr, threads);
  }
  ~Barrier() {
    for (auto& barrier : barriers_) pthread_barrier_destroy(&barrier);
  }
  Barrier(const Barrier&) = delete;
  Barrier& operator=(const Barrier&) = delete;
  // `turn` is the calling thread's own.
  void wait(unsigned& turn) { pthread_barrier_wait(&barriers_[turn++ % 2]); }

 private:
  pthread_barrier_t barriers_[2];
};

struct Warp {
  Barrier barrier;
  uint64_t value[32] = {};
  explicit Warp(unsigned lanes) : barrier(lanes) {}
};

inline Barrier* block;
inline thread_local Warp* warp;
inline thread_local unsigned lane, block_turn, warp_turn;

// The value of lane `from` of the same warp.
template <typename T>
T exchange(T value, unsigned from) {
  static_assert(sizeof(T) <= 8);
  std::memcpy(&warp->value[lane], &value, sizeof(T));
  warp->barrier.wait(warp_turn);
  T other;
  std::memcpy(&other, &warp->value[from % 32], sizeof(T));
  warp->barrier.wait(warp_turn);
  return other;
}

// Every thread of the grid calls kernel(arguments...).
template <typename Kernel, typename... Arguments>
void launch(dim3 grid, dim3 threads, Kernel kernel, Arguments... arguments) {
  const unsigned count = threads.count();
  gridDim = grid;
  blockDim = threads;
  Barrier all(count), next(count);
  block = &all;
  std::vector<std::unique_ptr<Warp>> warps;
  for (unsigned first = 0; first < count; first += 32)
    warps.push_back(std::make_unique<Warp>(std::min(32u, count - first)));
  std::vector<std::thread> running;
  for (unsigned t = 0; t < count; ++t)
    running.emplace_back([&, t] {
      threadIdx = {t % threads.x, t / threads.x % threads.y, t / (threads.x * threads.y)};
      warp = warps[t / 32].get();
      lane = t % 32;
      unsigned turn = 0;
      for (unsigned b = 0; b < grid.count(); ++b) {
        blockIdx = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
        kernel(arguments...);
        next.wait(turn);
      }
    });
  for (auto& thread : running) thread.join();
}

}  // namespace hostcuda

inline void __syncthreads() { hostcuda::block->wait(hostcuda::block_turn); }
inline void __syncwarp(unsigned = ~0u) { hostcuda::warp->barrier.wait(hostcuda::warp_turn); }

template <typename T>
T __shfl_sync(unsigned, T value, int from) {
  return hostcuda::exchange(value, from);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return hostcuda::exchange(value, hostcuda::lane ^ mask);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned by) {
  return hostcuda::exchange(value, hostcuda::lane < by ? hostcuda::lane : hostcuda::lane - by);
}
template <typename T>
T __shfl_down_sync(unsigned, T value, unsigned by) {
  return hostcuda::exchange(value, hostcuda::lane + by < 32 ? hostcuda::lane + by : hostcuda::lane);
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  unsigned bits = 0;
  for (unsigned i = 0; i < 32; ++i) bits |= unsigned(hostcuda::exchange(predicate != 0, i)) << i;
  return bits;
}

template <typename T>
T __ldg(const T* p) {
  return *p;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(uint64_t x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(int64_t x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(x); }

template <typename T>
T atomicAdd(T* p, T value) {
  return std::atomic_ref<T>(*p).fetch_add(value, std::memory_order_relaxed);
}
template <typename T>
T atomicOr(T* p, T value) {
  return std::atomic_ref<T>(*p).fetch_or(value, std::memory_order_relaxed);
}
template <typename T>
T atomicXor(T* p, T value) {
  return std::atomic_ref<T>(*p).fetch_xor(value, std::memory_order_relaxed);
}
template <typename T>
T atomicMax(T* p, T value) {
  std::atomic_ref<T> shared(*p);
  T old = shared.load(std::memory_order_relaxed);
  while (old < value && !shared.compare_exchange_weak(old, value, std::memory_order_relaxed)) {
  }
  return old;
}
