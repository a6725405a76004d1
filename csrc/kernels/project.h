// Gradient projection over lists of tensors that are never concatenated.
//
// Every projected gradient is a linear combination of the originals, so two passes are enough: one
// for the Gram matrix of the K tasks' gradients, one for the combination. Between them stands a
// recursion on K x K numbers, see weights_from_gram.h.
//
// Shape alphabet: K tasks, L tensors per task, S scopes (1, or L where each tensor is projected on
// its own), M steps at most per task.
#pragma once

#include <cstdint>

#include "types.h"

namespace fastforget {

// Elements [offset, offset + size) of one tensor, in the gradients of all K tasks.
struct GradChunk {
  DType dtype;
  const void* const* grads;  // [K], each the start of its tensor
  int64_t offset, size;
};

struct ProjectKernels {
  // gram[i, j] += sum over the chunk of g_i * g_j for i <= j; gram is [K, K].
  void (*gram)(const GradChunk&, int64_t K, double* gram);
  // out = sum_k weights[k] * g_k over the chunk, summed in float64 and rounded once; out is the
  // start of its tensor and may be one of the gradients.
  void (*combine)(const GradChunk&, int64_t K, const double* weights, void* out);
};

}  // namespace fastforget
