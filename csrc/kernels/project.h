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

// The gradients of K tasks with respect to the same L contiguous tensors.
struct GradTensors {
  int64_t K, L;
  const DType* dtypes;       // [L]
  const int64_t* sizes;      // [L] elements
  const void* const* grads;  // [L, K]
};

}  // namespace fastforget
