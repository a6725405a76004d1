// Selected elements on CUDA devices: the scaled update and its undoing, and writing values at given
// places. What does not fit is ignored, see mask.h.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../types.h"
#include "mask.h"

namespace fastforget::cuda {

// The first k marked elements become parameter + alpha * direction, computed in the type of the
// direction (f32 or f64) and rounded once; the values before go to `old`, in order.
cudaError_t perturb(const BitMask&, DType parameter, DType direction, void* const* parameters,
                    const void* const* directions, double alpha, int64_t k, void* old,
                    void* scratch, cudaStream_t);

// The first k marked elements, of 2, 4 or 8 bytes, become `old`.
cudaError_t perturb_undo(const BitMask&, int element_size, void* const* parameters, int64_t k,
                         const void* old, void* scratch, cudaStream_t);

// Bytes of scratch memory that `perturb_write` wants.
int64_t perturb_write_bytes(int64_t L);

// parameters[l][indices[i]] = values[i]: counts[l] of the K values for each tensor in order, values
// beyond them and indices beyond the end of the tensor ignored.
cudaError_t perturb_write(int64_t L, const int64_t* sizes, int element_size, int index_size,
                          void* const* parameters, const void* indices, const int64_t* counts,
                          const void* values, int64_t K, void* scratch, cudaStream_t);

}  // namespace fastforget::cuda
