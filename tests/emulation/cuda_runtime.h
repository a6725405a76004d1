// Runs CUDA kernels on the host, one block after another, so that their arithmetic, indexing and
// synchronisation can be tested and fuzzed on machines without a GPU. The .cu files are compiled as
// C++ with this folder in the include path: what they include as <cuda_runtime.h> is this file.
//
// A thread of a block is a fiber. It runs until it waits for its block (`__syncthreads`) or its
// warp (shuffles, votes, matrix products), and others run then: forwards, backwards or in a random
// order, which is what FASTFORGET_EMULATION_ORDER says ("forward", "backward" or a number). A
// result that depends on the order is a race. What a kernel leaves unwritten in shared memory reads
// as NaN; copies by cp.async happen as late as the kernel allows.
#pragma once

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static
#define __align__(n) alignas(n)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
using cudaStream_t = struct EmulatedStream*;
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid argument";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  std::memset(data, value, bytes);
  return cudaSuccess;
}

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace emulation {

// The end of a wait: `*counter` is no longer `value`.
struct Wait {
  const uint64_t* counter = nullptr;
  uint64_t value = 0;
  bool over() const { return counter == nullptr || *counter != value; }
};

struct Copy {
  void* to;
  const void* from;
  int bytes, valid;
};

// Where a fiber goes on, with a stack of its own.
class Context {
 public:
#if defined(__x86_64__)
  // As ucontext, which asks the kernel for the signal mask at every switch.
  void prepare(char* stack, size_t bytes, void (*enter)()) {
    auto top = reinterpret_cast<uintptr_t>(stack + bytes) / 16 * 16 - 8;
    auto* const frame = reinterpret_cast<void**>(top) - 7;
    std::fill(frame, frame + 8, nullptr);
    frame[6] = reinterpret_cast<void*>(enter);
    at_ = frame;
  }
  void go_to(Context& other) { exchange(&at_, other.at_); }

 private:
  __attribute__((naked, noinline)) static void exchange(void**, void*) {
    asm("push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
        "mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
        "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret");
  }
  void* at_ = nullptr;
#else
  void prepare(char* stack, size_t bytes, void (*enter)()) {
    getcontext(&at_);
    at_.uc_stack.ss_sp = stack, at_.uc_stack.ss_size = bytes;
    makecontext(&at_, enter, 0);
  }
  void go_to(Context& other) { swapcontext(&at_, &other.at_); }

 private:
  ucontext_t at_;
#endif
};

struct Fiber {
  static constexpr size_t kStack = 256 << 10;
  Context context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  Wait wait;
  bool finished = false;
  uint64_t collectives = 0;  // of its warp, so far
  std::vector<std::vector<Copy>> copies;
};

struct Barrier {
  uint64_t generation = 0;
  int arrived = 0, members = 0;
};

struct Warp {
  Barrier barrier;
  // What each lane brings to a collective. Lanes may be one ahead of each other: two of them.
  alignas(16) unsigned char slots[2][32][64];
};

[[noreturn]] inline void fail(const std::string& text) {
  std::fprintf(stderr, "emulation: %s\n", text.c_str());
  std::abort();
}

class Block {
 public:
  void run(dim3 threads, size_t shared_bytes, const std::function<void()>& kernel, uint64_t seed) {
    const int count = int(threads.x * threads.y * threads.z);
    if (count < 1 || count > 1024 || count % 32)
      fail("a block must have whole warps, got " + std::to_string(count) + " threads");
    kernel_ = &kernel;
    // Exactly as large as asked for: an address sanitizer sees what lies beyond.
    shared_.reset(static_cast<unsigned char*>(
        std::aligned_alloc(128, (std::max<size_t>(shared_bytes, 1) + 127) / 128 * 128)));
    std::memset(shared_.get(), 0xff, shared_bytes);
    while (int(fibers_.size()) < count) fibers_.push_back(std::make_unique<Fiber>());
    warps_.resize(size_t(count) / 32);
    for (Warp& warp : warps_) warp.barrier = {0, 0, 32};
    block_ = {0, 0, count};
    for (int i = 0; i < count; ++i) start(*fibers_[size_t(i)]);
    order_.resize(size_t(count));
    for (int i = 0; i < count; ++i) order_[size_t(i)] = i;
    std::mt19937_64 random(seed);
    const std::string order = order_name();
    if (order == "backward") std::reverse(order_.begin(), order_.end());
    for (int left = count; left > 0;) {
      if (order != "backward" && order != "forward")
        std::shuffle(order_.begin(), order_.end(), random);
      bool moved = false;
      for (const int i : order_) {
        Fiber& fiber = *fibers_[size_t(i)];
        if (fiber.finished || !fiber.wait.over()) continue;
        current_ = i;
        threadIdx = {unsigned(i) % threads.x, unsigned(i) / threads.x % threads.y,
                     unsigned(i) / threads.x / threads.y};
        scheduler_.go_to(fiber.context);
        moved = true;
        if (!fiber.finished) continue;
        --left;
        leave(block_);
        leave(warps_[size_t(i) / 32].barrier);
      }
      if (!moved) fail("threads wait for each other for ever: a barrier not all of them reach");
    }
  }

  void sync() { arrive(block_); }

  // Gives `bytes` of every lane to all lanes of the warp.
  template <class T>
  void exchange(const T& mine, T (&all)[32]) {
    static_assert(sizeof(T) <= 64);
    Warp& warp = warps_[size_t(current_) / 32];
    const int lane = current_ % 32;
    auto& slots = warp.slots[fibers_[size_t(current_)]->collectives++ % 2];
    std::memcpy(slots[lane], &mine, sizeof(T));
    arrive(warp.barrier);
    for (int i = 0; i < 32; ++i) std::memcpy(&all[i], slots[i], sizeof(T));
  }

  int lane() const { return current_ % 32; }
  void* shared() const { return shared_.get(); }

  void copy_later(const Copy& copy) {
    auto& groups = fibers_[size_t(current_)]->copies;
    if (groups.empty()) groups.emplace_back();
    groups.back().push_back(copy);
  }
  void commit() {
    auto& groups = fibers_[size_t(current_)]->copies;
    if (groups.empty()) groups.emplace_back();
    groups.emplace_back();
  }
  // Until at most `left` of the committed groups are under way.
  void wait(size_t left) {
    auto& groups = fibers_[size_t(current_)]->copies;
    while (groups.size() > left + 1) {
      for (const Copy& copy : groups.front()) {
        std::memcpy(copy.to, copy.from, size_t(copy.valid));
        std::memset(static_cast<char*>(copy.to) + copy.valid, 0, size_t(copy.bytes - copy.valid));
      }
      groups.erase(groups.begin());
    }
  }

  static const std::string& order_name() {
    static const std::string name = [] {
      const char* given = std::getenv("FASTFORGET_EMULATION_ORDER");
      return std::string(given ? given : "forward");
    }();
    return name;
  }

 private:
  struct Free {
    void operator()(unsigned char* data) const { std::free(data); }
  };

  static void enter();

  void start(Fiber& fiber) {
    fiber.wait = {}, fiber.finished = false, fiber.collectives = 0, fiber.copies.clear();
    fiber.context.prepare(fiber.stack.get(), Fiber::kStack, &Block::enter);
  }

  void arrive(Barrier& barrier) {
    if (++barrier.arrived == barrier.members) {
      barrier.arrived = 0, ++barrier.generation;
      return;
    }
    Fiber& fiber = *fibers_[size_t(current_)];
    const uint3 mine = threadIdx;
    fiber.wait = {&barrier.generation, barrier.generation};
    fiber.context.go_to(scheduler_);
    threadIdx = mine;
  }

  static void leave(Barrier& barrier) {
    if (--barrier.members == barrier.arrived && barrier.arrived > 0)
      barrier.arrived = 0, ++barrier.generation;
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Warp> warps_;
  std::vector<int> order_;
  std::unique_ptr<unsigned char, Free> shared_;
  Barrier block_;
  Context scheduler_;
  const std::function<void()>* kernel_ = nullptr;
  int current_ = 0;
};

inline Block block;

inline void Block::enter() {
  (*block.kernel_)();
  Fiber& fiber = *block.fibers_[size_t(block.current_)];
  fiber.finished = true;
  fiber.context.go_to(block.scheduler_);
}

inline uint64_t seed() {
  static uint64_t next = std::strtoull(Block::order_name().c_str(), nullptr, 10);
  return next++;
}

}  // namespace emulation

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               Args&&... args) {
  const std::tuple<std::decay_t<Params>...> given(std::forward<Args>(args)...);
  const std::function<void()> body = [&] { std::apply(kernel, given); };
  gridDim = config->gridDim, blockDim = config->blockDim;
  const dim3 grid = config->gridDim;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535 ||
      config->dynamicSmemBytes > (227 << 10))
    return cudaErrorInvalidValue;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        emulation::block.run(config->blockDim, config->dynamicSmemBytes, body, emulation::seed());
      }
  return cudaSuccess;
}

// Small, so that work is split up in tests.
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 3;
  return cudaSuccess;
}

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) {
  return cudaSuccess;
}

inline void __syncthreads() { emulation::block.sync(); }
inline void __syncwarp() {
  int all[32];
  emulation::block.exchange(0, all);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int lanes) {
  T all[32];
  emulation::block.exchange(value, all);
  return all[emulation::block.lane() ^ lanes];
}
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  T all[32];
  emulation::block.exchange(value, all);
  return all[lane & 31];
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned lanes) {
  T all[32];
  emulation::block.exchange(value, all);
  const int from = emulation::block.lane() - int(lanes);
  return from < 0 ? value : all[from];
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  bool all[32];
  emulation::block.exchange(vote, all);
  unsigned votes = 0;
  for (int i = 0; i < 32; ++i) votes |= unsigned(all[i]) << i;
  return votes;
}

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __ffs(unsigned v) { return __builtin_ffs(int(v)); }
inline int __ffsll(unsigned long long v) { return __builtin_ffsll(static_cast<long long>(v)); }
inline unsigned __float_as_uint(float v) {
  unsigned bits;
  std::memcpy(&bits, &v, 4);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float v;
  std::memcpy(&v, &bits, 4);
  return v;
}
inline long long __double_as_longlong(double v) {
  long long bits;
  std::memcpy(&bits, &v, 8);
  return bits;
}
inline double __longlong_as_double(long long bits) {
  double v;
  std::memcpy(&v, &bits, 8);
  return v;
}
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
template <class T, class V>
T atomicAdd(T* to, V value) {
  const T before = *to;
  *to = T(before + T(value));
  return before;
}
template <class T>
T atomicMin(T* to, T value) {
  const T before = *to;
  *to = std::min(before, value);
  return before;
}
template <class T>
T atomicOr(T* to, T value) {
  const T before = *to;
  *to = before | value;
  return before;
}
template <class T>
T __ldg(const T* from) {
  return *from;
}
using std::max;
using std::min;
