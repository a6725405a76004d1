// The projection kernels, once per instruction set (see dispatch.cpp), and the recursion between
// the two passes.
#include "../project.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "half.h"

#define FF_VECTOR_BYTES 16
#include "project_isa.h"
#if defined(__x86_64__)
#undef FF_VECTOR_BYTES
#define FF_VECTOR_BYTES 32
#include "project_isa.h"
#undef FF_VECTOR_BYTES
#define FF_VECTOR_BYTES 64
#include "project_isa.h"
#endif

namespace fastforget {

void project_weights_cpu(const double* gram, const int64_t* order, int64_t K, int64_t M,
                         double* current, double* weights) {
  std::fill_n(weights, K, 0.0);
  for (int64_t i = 0; i < K; ++i) {
    std::fill_n(current, K, 0.0);
    current[i] = 1;
    for (int64_t step = 0; step < M; ++step) {
      const int64_t j = order[i * M + step];
      if (j < 0) continue;
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
