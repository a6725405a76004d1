// Counting the values of one digit of many keys: a block counts in shared memory and adds what it
// has to global counters.
//
// A value that repeats, such as exact zeros, must not make threads wait for one counter: every
// thread keeps the count of its own most frequent digit in a register.
#pragma once

#include <cstdint>

#include "ptx.cuh"

namespace fastforget::cuda {

constexpr int kSelectThreads = 256;
constexpr int kRow = 8 * kSelectThreads;   // elements that a block reads at once
constexpr int64_t kSelectChunk = 1 << 15;  // elements of a block, where there are many
constexpr int kDigit = 11, kDigits = 1 << kDigit;

using Counter = unsigned long long;  // what atomicAdd takes

// A thread's counts of one digit: those that it sees most often it counts in a register (the
// majority vote of Boyer and Moore), others in shared memory.
class Tally {
 public:
  __device__ explicit Tally(unsigned* counts) : counts_(counts) {}
  __device__ __forceinline__ void add(int digit) {
    if (digit == frequent_) {
      ++count_, ++lead_;
    } else if (lead_ > 0) {
      --lead_;
      atomicAdd(counts_ + digit, 1u);
    } else {
      flush();
      frequent_ = digit, count_ = lead_ = 1;
    }
  }
  __device__ __forceinline__ void flush() {
    if (count_ > 0) atomicAdd(counts_ + frequent_, count_);
  }

 private:
  unsigned* counts_;
  int frequent_ = -1, lead_ = 0;
  unsigned count_ = 0;
};

__device__ __forceinline__ void clear_counts(unsigned* counts) {
  for (int d = int(threadIdx.x); d < kDigits; d += kSelectThreads) counts[d] = 0;
  __syncthreads();
}

__device__ __forceinline__ void add_counts(Counter* all, const unsigned* counts,
                                           int digits = kDigits) {
  __syncthreads();
  for (int d = int(threadIdx.x); d < digits; d += kSelectThreads)
    if (counts[d] > 0) atomicAdd(all + d, Counter(counts[d]));
}

}  // namespace fastforget::cuda
