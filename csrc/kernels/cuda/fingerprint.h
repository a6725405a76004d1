// Fingerprints of tensor contents on CUDA devices; see ../fingerprint.h for what is computed.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fastforget::cuda {

// sums[l] = the two sums of tensor l, of sizes[l] elements of 1, 2, 4, 8 or 16 bytes: [L, 2].
cudaError_t fingerprint(int64_t L, const int64_t* sizes, const int* element_sizes,
                        const void* const* tensors, uint64_t* sums, cudaStream_t);

}  // namespace fastforget::cuda
