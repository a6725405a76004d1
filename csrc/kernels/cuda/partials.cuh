// Sums over samples that several blocks share: each block writes its own part, and the parts are
// added in order. Bound by the read of the parts.
#pragma once

#include <algorithm>
#include <cstdint>

#include "element.cuh"
#include "ptx.cuh"
#include "splits.h"

namespace fastforget::cuda {

// Adds to a result, or writes it where it holds nothing yet; null: not wanted.
template <class S>
__device__ __forceinline__ void store(void* results, int64_t at, S value, bool overwrite) {
  if (results == nullptr) return;
  S* const to = static_cast<S*>(results) + at;
  *to = overwrite ? value : *to + value;
}

template <class S>
__global__ void sum_splits(const S* partial, int64_t splits, int64_t size, S* result,
                           bool overwrite) {
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += step) {
    S sum = 0;
    for (int64_t split = 0; split < splits; ++split) sum += partial[split * size + i];
    result[i] = overwrite ? sum : result[i] + sum;
  }
}

// Shares of the samples, as even as they can be: `rest` of them have one more than `each`.
struct Shares {
  int64_t each, rest;
  __device__ __forceinline__ int64_t first(int64_t share) const {
    return share * each + (share < rest ? share : rest);
  }
};

// [results][splits][size] in scratch memory.
struct Partials {
  Partials(void* scratch, int64_t splits, int64_t size, int64_t element_size)
      : scratch(static_cast<char*>(scratch)), splits(splits), size(size), bytes(element_size) {}

  // Where the parts of result `index` go, if it is wanted.
  void* place(int64_t index, const void* result) const {
    return result ? scratch + index * splits * size * bytes : nullptr;
  }

  cudaError_t sum(const void* partial, void* result, bool overwrite, DType dtype,
                  cudaStream_t stream) const {
    if (result == nullptr) return cudaSuccess;
    constexpr int kThreads = 256;
    const dim3 grid(unsigned(std::min<int64_t>((size + kThreads - 1) / kThreads, 4096)));
    if (dtype == DType::f64)
      return launch(sum_splits<double>, grid, kThreads, 0, stream,
                    static_cast<const double*>(partial), splits, size, static_cast<double*>(result),
                    overwrite);
    return launch(sum_splits<float>, grid, kThreads, 0, stream, static_cast<const float*>(partial),
                  splits, size, static_cast<float*>(result), overwrite);
  }

  char* scratch;
  int64_t splits, size, bytes;
};

}  // namespace fastforget::cuda
