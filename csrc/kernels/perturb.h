// The scaled update of selected elements with its undo values, and writing values back at given
// places.
#pragma once

#include <cstdint>

#include "types.h"

namespace fastforget {

struct PerturbKernels {
  // The elements at `positions` become parameter + alpha * direction, computed in the type of the
  // direction (float32 or float64) and rounded once; their old values go to `old`.
  void (*perturb)(DType parameter, DType direction, void* parameters, const void* directions,
                  const int32_t* positions, int64_t count, double alpha, void* old);
  // parameters[indices[i]] = values[i]; indices are int32 or int64 by their size.
  void (*write)(int element_size, int index_size, void* parameters, const void* indices,
                const void* values, int64_t count);
};

const PerturbKernels& perturb_kernels_cpu();

}  // namespace fastforget
