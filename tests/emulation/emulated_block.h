// How the threads of one block run on the host: as fibers, which wait for each other; see
// cuda_runtime.h.
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
#include <map>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};
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

// The static shared memory of all kernels that ran: every block begins with NaN there.
struct StaticShared {
  std::map<void*, size_t> sizes;
  void add(void* data, size_t bytes) {
    if (sizes.emplace(data, bytes).second) std::memset(data, 0xff, bytes);
  }
  void poison() {
    for (const auto& [data, bytes] : sizes) std::memset(data, 0xff, bytes);
  }
};
inline StaticShared static_shared;

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
    static_shared.poison();
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
        Barrier& warp = warps_[size_t(i) / 32].barrier;
        if (warp.arrived > 0) fail(kEnded);
        --warp.members;
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
    if (warp.barrier.members < 32) fail(kEnded);
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
  static constexpr const char* kEnded =
      "a shuffle, vote or matrix product of a warp some of whose threads have ended";

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
