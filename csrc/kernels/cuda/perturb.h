// Selected elements on CUDA devices: a bit mask as bytes and as indices, the scaled update and its
// undoing, and writing values at given places; see ../perturb.h and ../select.h.
//
// What a mask says beyond the end of a tensor is ignored, and so are elements whose rank is not
// below k: whether k is their number is not known without waiting for the device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../types.h"

namespace fastforget::cuda {

// The mask of L contiguous tensors, each beginning a word.
struct MaskOf {
  const uint64_t* mask;
  int64_t L;
  const int64_t* sizes;  // [L] elements
};

// Bytes of scratch memory that the functions below want, except mask_bytes, which wants none.
int64_t mask_scratch_bytes(const MaskOf&);

// out[l][i] = whether element i of tensor l is marked; out[l] are aligned to 16 bytes.
cudaError_t mask_bytes(const MaskOf&, void* const* out, cudaStream_t);

// The places of the first k marked elements within their tensors, int32 (index_size 4) or int64
// (8), in order; and how many belong to each tensor, counts [L].
cudaError_t mask_indices(const MaskOf&, int index_size, int64_t k, void* indices, int64_t* counts,
                         void* scratch, cudaStream_t);

// The first k marked elements become parameter + alpha * direction, computed in the type of the
// direction (f32 or f64) and rounded once; the values before go to `old`, in order.
cudaError_t perturb(const MaskOf&, DType parameter, DType direction, void* const* parameters,
                    const void* const* directions, double alpha, int64_t k, void* old,
                    void* scratch, cudaStream_t);

// The first k marked elements, of 2, 4 or 8 bytes, become `old`.
cudaError_t perturb_undo(const MaskOf&, int element_size, void* const* parameters, int64_t k,
                         const void* old, void* scratch, cudaStream_t);

// Bytes of scratch memory that `perturb_write` wants.
int64_t perturb_write_bytes(int64_t L);

// parameters[l][indices[i]] = values[i]: counts[l] of the K values for each tensor in order, values
// beyond them and indices beyond the end of the tensor ignored.
cudaError_t perturb_write(int64_t L, const int64_t* sizes, int element_size, int index_size,
                          void* const* parameters, const void* indices, const int64_t* counts,
                          const void* values, int64_t K, void* scratch, cudaStream_t);

}  // namespace fastforget::cuda
