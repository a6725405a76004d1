// The recursion between the two passes of a projection, for CPU and CUDA devices.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define FF_HOST_DEVICE __host__ __device__
#else
#define FF_HOST_DEVICE
#endif

namespace fastforget {

// One scope's weights [K] from its Gram matrix [K, K]. Row i of order [K, M] names the tasks off
// which gradient i is projected, one after the other; a negative number names none. `current` is
// scratch [K].
FF_HOST_DEVICE inline void weights_from_gram(const double* gram, const int64_t* order, int64_t K,
                                             int64_t M, double* current, double* weights) {
  for (int64_t k = 0; k < K; ++k) weights[k] = 0;
  for (int64_t i = 0; i < K; ++i) {
    for (int64_t k = 0; k < K; ++k) current[k] = k == i;
    for (int64_t step = 0; step < M; ++step) {
      const int64_t j = order[i * M + step];
      if (j < 0 || j >= K) continue;
      double product = 0;
      for (int64_t k = 0; k < K; ++k)
        if (current[k] != 0) product += current[k] * gram[j * K + k];
      // Not finite where g_j is zero, or where either gradient is not finite: no conflict.
      const double multiple = product / gram[j * K + j];
      if (product < 0 && std::isfinite(multiple)) current[j] -= multiple;
    }
    for (int64_t k = 0; k < K; ++k) weights[k] += current[k];
  }
}

}  // namespace fastforget
