// The marked elements of a bit mask on CUDA devices, as bytes and as indices; see ../bit_mask.h.
//
// What a mask says beyond the end of a tensor is ignored, and so are elements whose rank is not
// below k: whether k is their number is not known without waiting for the device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../bit_mask.h"

namespace fastforget::cuda {

// Bytes of scratch memory that mask_indices wants, and perturb and perturb_undo.
int64_t mask_scratch_bytes(const BitMask&);

// out[l][i] = whether element i of tensor l is marked; out[l] are aligned to 16 bytes.
cudaError_t mask_bytes(const BitMask&, void* const* out, cudaStream_t);

// The places of the first k marked elements within their tensors, int32 (index_size 4) or int64
// (8), in order; and how many belong to each tensor, counts [L].
cudaError_t mask_indices(const BitMask&, int index_size, int64_t k, void* indices, int64_t* counts,
                         void* scratch, cudaStream_t);

}  // namespace fastforget::cuda
