// Exact global top-k on the CPU, and histograms of keys; see ../select.h for what is selected.
#pragma once

#include <cstdint>

#include "../select.h"
#include "parallel.h"

namespace fastforget::cpu {

// Writes the bit mask of the k largest scores, 1 <= k <= number of elements, and the k-th largest.
// Returns how many scores are NaN; where any is, the mask and the threshold mean nothing.
int64_t select(const ScoreTensors&, int64_t k, uint64_t* mask, void* threshold, const Parallel&);

// Of the keys of each tensor that are `prefix` from bit `left` up, how many have each value of the
// bits [shift, left): added to counts[L][1 << (left - shift)]. Keys are those of float32, or of
// float64, whatever the dtype.
void select_histogram(const ScoreTensors&, uint64_t prefix, int left, int shift, int64_t* counts,
                      const Parallel&);

}  // namespace fastforget::cpu
