// The scaled update of the elements of a bit mask, undoing it, and writing values at given places.
#pragma once

#include <cstdint>

#include "types.h"

namespace fastforget {

// A mask is an array of words of 64 elements, bit 0 first. Values are those of the elements whose
// bit is set, in order. Element sizes are 2, 4 or 8 bytes, index sizes 4 (int32) or 8 (int64).
struct PerturbKernels {
  // Marked elements become parameter + alpha * direction, computed in the type of the direction
  // (float32 or float64) and rounded once; the values before go to `old`.
  void (*perturb)(DType parameter, DType direction, void* parameters, const void* directions,
                  const uint64_t* mask, int64_t words, double alpha, void* old);
  // The marked elements become `old`.
  void (*undo)(int element_size, void* parameters, const uint64_t* mask, int64_t words,
               const void* old);
  // `offset` plus the index of every marked element.
  void (*indices)(int index_size, const uint64_t* mask, int64_t words, int64_t offset,
                  void* indices);
  // mask[i] for i < size as bytes 0 or 1.
  void (*bytes)(const uint64_t* mask, int64_t size, bool* bytes);
  // parameters[indices[i]] = values[i]
  void (*write)(int element_size, int index_size, void* parameters, const void* indices,
                const void* values, int64_t count);
};

const PerturbKernels& perturb_kernels_cpu();

}  // namespace fastforget
