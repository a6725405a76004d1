// A mask from outside: checked, also what it holds.
#pragma once

#include "../../kernels/cpu/mask.h"
#include "../select_check.h"
#include "torch_threads.h"

namespace fastforget {

inline cpu::RankedMask ranked_mask(const Tensor& mask, const Tensors& tensors) {
  cpu::RankedMask ranked(MaskOfTensors(mask, tensors).view(), kTorchThreads);
  STD_TORCH_CHECK(ranked.is_within_tensors(), "`mask` must not go beyond the end of a tensor");
  return ranked;
}

inline void check_ones(const cpu::RankedMask& mask, int64_t k) {
  STD_TORCH_CHECK(mask.ones() == k, "`k` must be the number of selected elements, ", mask.ones(),
                  ", got ", k);
}

}  // namespace fastforget
