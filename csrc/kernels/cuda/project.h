// Gradient projection on CUDA devices; see ../project.h for what is computed.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../project.h"

namespace fastforget::cuda {

// Bytes of scratch memory that `project_gram` wants.
int64_t project_gram_bytes(const GradTensors&);

// gram[s, i, j] = sum of g_i * g_j over all tensors (S = 1), or over tensor s (S = L): float64
// [S, K, K], summed in an order that only the sizes decide.
cudaError_t project_gram(const GradTensors&, bool per_tensor, double* gram, void* scratch,
                         cudaStream_t);

// Weights [S, K] from gram [S, K, K] and order [K, M]; `current` is scratch [S, K].
cudaError_t project_weights(const double* gram, const int64_t* order, int64_t S, int64_t K,
                            int64_t M, double* current, double* weights, cudaStream_t);

// out[l] = sum_k weights[s, k] * g_k in float64, rounded once; out[l] may be one of the gradients.
cudaError_t project_combine(const GradTensors&, int64_t S, const double* weights, void* const* out,
                            cudaStream_t);

}  // namespace fastforget::cuda
