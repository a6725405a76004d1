// The masked, scaled update and its undo values in one pass; and writing values back at given
// places.
#pragma once

#include <cstdint>

#include "select.h"
#include "types.h"

namespace fastforget {

// Elements of one parameter with their direction and scores. `scores` carries the position of the
// chunk in the list's order, `offset` its first element within its own tensor.
struct PerturbChunk {
  void* parameter;        // dtype of the parameter
  const void* direction;  // dtype of the scores
  ScoreChunk scores;
  int64_t offset;
};

struct PerturbKernels {
  // Selected elements become parameter + alpha * direction. Their indices within the tensor and
  // their old values go to `indices` and `old`; returns how many.
  int64_t (*perturb)(DType parameter, DType scores, const PerturbChunk&, uint64_t threshold,
                     int64_t cut, double alpha, int64_t* indices, void* old);
  // parameter[indices[i]] = values[i]
  void (*write)(int element_size, void* parameter, const int64_t* indices, const void* values,
                int64_t count);
};

const PerturbKernels& perturb_kernels_cpu();

}  // namespace fastforget
