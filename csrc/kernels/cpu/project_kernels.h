// The kernels of projection, one table per instruction set (see dispatch.h); see ../project.h for
// what is computed.
#pragma once

#include <cstdint>

#include "../types.h"

namespace fastforget::cpu {

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

}  // namespace fastforget::cpu
