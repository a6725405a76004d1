// The scaled update of the elements of a bit mask, undoing it, and writing values at given places,
// on the CPU.
#pragma once

#include <cstdint>

#include "../types.h"
#include "mask.h"
#include "parallel.h"

namespace fastforget::cpu {

// Marked elements become parameter + alpha * direction, computed in the type of the direction (f32
// or f64) and rounded once; the values before go to `old`, in order.
void perturb(const RankedMask&, DType parameter, DType direction, void* const* parameters,
             const void* const* directions, double alpha, void* old, const Parallel&);

// The marked elements, of 2, 4 or 8 bytes, become `old`.
void perturb_undo(const RankedMask&, int element_size, void* const* parameters, const void* old,
                  const Parallel&);

// parameters[l][indices[i]] = values[i], counts[l] of them for each of L tensors in order. Indices
// are int32 (index_size 4) or int64 (8).
void perturb_write(int64_t L, int element_size, int index_size, void* const* parameters,
                   const void* indices, const int64_t* counts, const void* values);

}  // namespace fastforget::cpu
