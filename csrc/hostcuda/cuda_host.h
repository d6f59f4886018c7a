// CUDA kernels on the CPU, for proof and not for speed: a thread of the operating system per CUDA
// thread of a block, so that the sanitizers watch the kernel itself. ASan sees a read outside an
// array, TSan a missing barrier or a lost atomic, UBSan a bad shift or cast.
//
// Blocks run one after another, the last one first, so nothing is found of how blocks race with
// each other. Shared memory is one static array that is reused; each block finds garbage in it.
// Warps are 32 neighbouring threads; all lanes that a warp function names must call it, from one
// place, which for us is always all lanes of the warp that exist. It orders no memory. What a GPU
// would refuse or leave undefined (a launch, a mask, barriers in different places) ends the
// program.

#pragma once

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
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

namespace hostcuda {

inline void require(bool fine, const char* what) {
  if (!fine) std::fprintf(stderr, "hostcuda: %s\n", what), std::_Exit(4);
}

}  // namespace hostcuda

struct dim3 {
  unsigned x, y, z;
  dim3(int64_t x_ = 1, int64_t y_ = 1, int64_t z_ = 1)
      : x(static_cast<unsigned>(x_)), y(static_cast<unsigned>(y_)), z(static_cast<unsigned>(z_)) {
    hostcuda::require(x == x_ && y == y_ && z == z_, "a grid of more than 2^32 blocks");
  }
  unsigned count() const { return x * y * z; }
};

struct alignas(16) float4 {
  float x, y, z, w;
};

using std::exp;
using std::fabs;
using std::fma;
using std::frexp;
using std::ldexp;
using std::llrint;
using std::log1p;
using std::max;
using std::memcpy;
using std::min;

inline thread_local dim3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

#ifdef __SANITIZE_THREAD__
extern "C" {
void AnnotateIgnoreSyncBegin(const char* file, int line);
void AnnotateIgnoreSyncEnd(const char* file, int line);
}
#endif

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
  // Without telling TSan that what was written before can be read after.
  void wait_unordered(unsigned& turn) {
#ifdef __SANITIZE_THREAD__
    AnnotateIgnoreSyncBegin(__FILE__, __LINE__);
#endif
    wait(turn);
#ifdef __SANITIZE_THREAD__
    AnnotateIgnoreSyncEnd(__FILE__, __LINE__);
#endif
  }

 private:
  pthread_barrier_t barriers_[2];
};

// Where the threads that meet at a barrier come from, which must be one line for all.
template <unsigned kThreads>
class Places {
 public:
  void come(unsigned thread, unsigned turn, int line) {
    lines_[turn % 2][thread].store(line, std::memory_order_relaxed);
  }
  void compare(unsigned thread, unsigned threads, unsigned turn, int line) const {
    const auto& other = lines_[turn % 2][(thread + 1) % threads];
    require(other.load(std::memory_order_relaxed) == line, "threads meet in different places");
  }

 private:
  std::atomic<int> lines_[2][kThreads] = {};
};

constexpr unsigned kMostThreads = 1024;  // of a block

struct Block {
  unsigned threads;
  Barrier barrier;
  Places<kMostThreads> places;
  explicit Block(unsigned threads) : threads(threads), barrier(threads) {}
};

struct Warp {
  unsigned lanes;
  Barrier barrier;
  Places<32> places;
  std::atomic<uint64_t> value[32] = {};
  explicit Warp(unsigned lanes) : lanes(lanes), barrier(lanes) {}
};

inline Block* block;
inline thread_local Warp* warp;
inline thread_local unsigned thread, lane, block_turn, warp_turn;

inline void meet_in_block(int line) {
  const unsigned turn = block_turn;
  block->places.come(thread, turn, line);
  block->barrier.wait(block_turn);
  block->places.compare(thread, block->threads, turn, line);
}

// Every block finds garbage in shared memory.
template <typename... Variables>
void forget(Variables&... variables) {
  meet_in_block(0);
  if (thread == 0) (std::memset(static_cast<void*>(&variables), 0xff, sizeof(variables)), ...);
  meet_in_block(0);
}

// Calls f(values of all lanes of the warp), which no barrier orders.
template <typename T, typename F>
auto with_lanes(unsigned mask, T value, int line, F f) {
  static_assert(sizeof(T) <= 8);
  const unsigned all = warp->lanes == 32 ? ~0u : (1u << warp->lanes) - 1;
  require((mask & all) == all, "a mask without some of the lanes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  warp->value[lane].store(bits, std::memory_order_relaxed);
  const unsigned turn = warp_turn;
  warp->places.come(lane, turn, line);
  warp->barrier.wait_unordered(warp_turn);
  warp->places.compare(lane, warp->lanes, turn, line);
  const auto answer = f([](unsigned from) {
    require(from < warp->lanes, "a lane that does not exist");
    const uint64_t other = warp->value[from].load(std::memory_order_relaxed);
    T of_lane;
    std::memcpy(&of_lane, &other, sizeof(T));
    return of_lane;
  });
  warp->barrier.wait_unordered(warp_turn);
  return answer;
}

// The value of lane `from` of the same warp.
template <typename T>
T exchange(unsigned mask, T value, unsigned from, int line) {
  return with_lanes(mask, value, line, [&](auto of_lane) { return of_lane(from % 32); });
}

// Every thread of the grid calls kernel(arguments...).
template <typename Kernel, typename... Arguments>
void launch(dim3 grid, dim3 threads, Kernel kernel, Arguments... arguments) {
  const unsigned count = threads.count();
  require(threads.x > 0 && threads.y > 0 && threads.z > 0 && threads.z <= 64 &&
              uint64_t{threads.x} * threads.y * threads.z <= kMostThreads,
          "a block of no threads or too many");
  require(grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 0x7fffffff && grid.y <= 65535 &&
              grid.z <= 65535,
          "a grid of no blocks or too many");
  gridDim = grid;
  blockDim = threads;
  Block all(count);
  Barrier next(count);
  block = &all;
  std::vector<std::unique_ptr<Warp>> warps;
  for (unsigned first = 0; first < count; first += 32)
    warps.push_back(std::make_unique<Warp>(std::min(32u, count - first)));
  std::vector<std::thread> running;
  for (unsigned t = 0; t < count; ++t)
    running.emplace_back([&, t] {
      threadIdx = {t % threads.x, t / threads.x % threads.y, t / (threads.x * threads.y)};
      warp = warps[t / 32].get();
      thread = t, lane = t % 32;
      unsigned turn = 0;
      for (unsigned b = grid.count(); b-- > 0;) {
        blockIdx = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
        kernel(arguments...);
        next.wait(turn);
      }
    });
  for (auto& thread : running) thread.join();
}

}  // namespace hostcuda

inline void __syncthreads(int line = __builtin_LINE()) { hostcuda::meet_in_block(line); }
inline void __syncwarp(unsigned = ~0u) { hostcuda::warp->barrier.wait(hostcuda::warp_turn); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int line = __builtin_LINE()) {
  return hostcuda::exchange(mask, value, from, line);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int with, int line = __builtin_LINE()) {
  return hostcuda::exchange(mask, value, hostcuda::lane ^ with, line);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int line = __builtin_LINE()) {
  const unsigned lane = hostcuda::lane;
  return hostcuda::exchange(mask, value, lane < by ? lane : lane - by, line);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int line = __builtin_LINE()) {
  const unsigned lane = hostcuda::lane;
  return hostcuda::exchange(mask, value, lane + by < 32 ? lane + by : lane, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return hostcuda::with_lanes(mask, predicate != 0, line, [](auto of_lane) {
    unsigned bits = 0;
    for (unsigned i = 0; i < hostcuda::warp->lanes; ++i) bits |= unsigned(of_lane(i)) << i;
    return bits;
  });
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
inline void atomicAdd(float4* p, float4 value) {
  float* const place = &p->x;
  atomicAdd(place, value.x), atomicAdd(place + 1, value.y);
  atomicAdd(place + 2, value.z), atomicAdd(place + 3, value.w);
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
