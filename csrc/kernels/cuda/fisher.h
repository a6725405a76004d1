// Diagonal Fisher kernels on CUDA devices; see ../fisher.h for what is computed.
//
// Samples without a weight are skipped on the device. Sums over samples are taken in an order that
// only the shapes and the number of multiprocessors decide.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../fisher.h"

namespace fastforget::cuda {

// A weight: `groups` convolution groups, one after the other in the results.
struct MatmulWork {
  MatmulFisher fisher;
  int64_t groups;
  bool tf32;                // float32 inputs may be rounded to tf32 before they are multiplied
  int64_t multiprocessors;  // of the device
};

int64_t fisher_matmul_bytes(const MatmulWork&);  // of scratch memory
cudaError_t fisher_matmul(const MatmulWork&, void* scratch, cudaStream_t);

// Few rows per convolution group, as in a depthwise convolution.
int64_t fisher_direct_bytes(const MatmulWork&);
cudaError_t fisher_direct(const MatmulWork&, void* scratch, cudaStream_t);

struct AffineWork {
  AffineFisher fisher;
  int64_t multiprocessors;
};

int64_t fisher_affine_bytes(const AffineWork&);
cudaError_t fisher_affine(const AffineWork&, void* scratch, cudaStream_t);

struct EmbeddingWork {
  EmbeddingFisher fisher;
  int64_t padding;  // a token that has no gradient, or negative; those outside [0, V) are skipped
};

int64_t fisher_embedding_bytes(const EmbeddingWork&);
cudaError_t fisher_embedding(const EmbeddingWork&, void* scratch, cudaStream_t);

}  // namespace fastforget::cuda
