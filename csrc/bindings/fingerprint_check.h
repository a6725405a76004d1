// What the fingerprint asks of its arguments, on any device.
#pragma once

#include "check.h"

namespace fastforget {

inline void check_fingerprint(const Tensors& tensors) {
  STD_TORCH_CHECK(!tensors.empty(), "`tensors` must not be empty");
  for (const Tensor& t : tensors) check_contiguous(t, "tensors");
}

// Uninitialised sums [L, 2] of L tensors.
inline Tensor new_fingerprints(const Tensors& tensors) {
  return torch::stable::new_empty(
      tensors[0], std::vector<int64_t>{static_cast<int64_t>(tensors.size()), 2}, ScalarType::Long);
}

}  // namespace fastforget
