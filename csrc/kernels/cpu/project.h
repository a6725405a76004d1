// Gradient projection on the CPU; see ../project.h for what is computed.
#pragma once

#include <cstdint>

#include "../project.h"
#include "parallel.h"

namespace fastforget::cpu {

// gram[s, i, j] = sum of g_i * g_j over all tensors (S = 1), or over tensor s (S = L): float64
// [S, K, K].
void project_gram(const GradTensors&, bool per_tensor, double* gram, const Parallel&);

// Weights [S, K] from gram [S, K, K] and order [K, M].
void project_weights(const double* gram, const int64_t* order, int64_t S, int64_t K, int64_t M,
                     double* weights);

// out[l] = sum_k weights[s, k] * g_k in float64, rounded once; out[l] may be one of the gradients.
void project_combine(const GradTensors&, int64_t S, const double* weights, void* const* out,
                     const Parallel&);

}  // namespace fastforget::cpu
