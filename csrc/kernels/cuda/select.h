// Exact global top-k on CUDA devices; see ../select.h for what is selected.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../types.h"

namespace fastforget::cuda {

// L contiguous tensors of one dtype.
struct ScoreTensors {
  DType dtype;
  int64_t L;
  const int64_t* sizes;       // [L] elements
  const void* const* scores;  // [L]
};

// Bytes of scratch memory that `select` wants.
int64_t select_bytes(const ScoreTensors&);

// The mask of the k largest, 1 <= k <= number of elements, ties in (tensor, element) order; and the
// k-th largest. The threshold is NaN where a score is: the k bits of the mask are then set as if
// NaN was beyond the infinity of its sign.
cudaError_t select(const ScoreTensors&, int64_t k, uint64_t* mask, void* threshold, void* scratch,
                   cudaStream_t);

}  // namespace fastforget::cuda
