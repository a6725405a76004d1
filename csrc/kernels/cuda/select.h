// Exact global top-k on CUDA devices; see ../select.h for what is selected.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../select.h"

namespace fastforget::cuda {

// Bytes of scratch memory that `select` wants.
int64_t select_bytes(const ScoreTensors&);

// The mask of the k largest, 1 <= k <= number of elements, ties in (tensor, element) order; and the
// k-th largest. The threshold is NaN where a score is: the k bits of the mask are then set as if
// NaN was beyond the infinity of its sign.
cudaError_t select(const ScoreTensors&, int64_t k, uint64_t* mask, void* threshold, void* scratch,
                   cudaStream_t);

// Of the keys of each tensor that are `prefix` from bit `left` up, how many have each value of the
// bits [shift, left), at most eleven: added to counts[L][1 << (left - shift)]. Keys are those of
// float32, or of float64, whatever the dtype.
cudaError_t select_histogram(const ScoreTensors&, uint64_t prefix, int left, int shift,
                             int64_t* counts, cudaStream_t);

}  // namespace fastforget::cuda
