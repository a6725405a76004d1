// Division by a number that only the host knows beforehand.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fastforget::cuda {

// Division of numbers below 2^31 by a number that the host knows, as a multiplication: n / d is
// n m / 2^(32 + shift), rounded down, for m = 2^(32 + shift) / d, rounded up (Granlund and
// Montgomery 1994).
struct Divisor {
  unsigned divisor = 1, multiplier = 0;
  int shift = 0;
  Divisor() = default;
  explicit Divisor(int64_t by) : divisor(unsigned(by)) {
    if (by <= 1) return;
    while ((int64_t(2) << shift) < by) ++shift;
    multiplier = unsigned(((uint64_t(1) << (32 + shift)) + divisor - 1) / divisor);
  }
  __device__ __forceinline__ unsigned divide(unsigned n) const {
    return divisor <= 1 ? n : __umulhi(n, multiplier) >> shift;
  }
};

}  // namespace fastforget::cuda
