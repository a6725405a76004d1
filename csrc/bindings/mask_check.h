// What the selection operators ask of their arguments, on any device, and the shapes of their
// results.
#pragma once

#include <algorithm>

#include "check.h"

namespace fastforget {

// Words of the bit mask of a list of tensors: 64 elements each, every tensor beginning one.
inline int64_t words_of(const Tensors& tensors) {
  int64_t words = 0;
  for (const Tensor& t : tensors) words += (t.numel() + 63) / 64;
  return words;
}

inline int64_t elements_of(const Tensors& tensors) {
  int64_t elements = 0;
  for (const Tensor& t : tensors) elements += t.numel();
  return elements;
}

// Returns the dtype of all.
inline DType check_scores(const Tensors& scores) {
  STD_TORCH_CHECK(!scores.empty(), "`scores` must not be empty");
  const DType dtype = dtype_of(scores[0], "scores");
  for (const Tensor& t : scores) {
    check_type(t, "scores", scores[0].scalar_type());
    check_contiguous(t, "scores");
  }
  return dtype;
}

// A digit of the keys of scores: the bits [shift, left), below those that a prefix gives.
inline void check_digit(DType dtype, int64_t prefix, int64_t left, int64_t shift) {
  constexpr int64_t most = 11;  // what a block of a CUDA device counts in shared memory
  const int64_t bits = dtype == DType::f64 ? 64 : 32;
  STD_TORCH_CHECK(left >= 1 && left <= bits, "`left` must lie in [1, ", bits, "], got ", left);
  STD_TORCH_CHECK(shift < left && shift >= std::max<int64_t>(left - most, 0),
                  "`shift` must lie in [", std::max<int64_t>(left - most, 0), ", ", left - 1,
                  "], got ", shift);
  const bool fits = left == bits ? prefix == 0 : prefix >= 0 && prefix >> (bits - left) == 0;
  STD_TORCH_CHECK(fits, "`prefix` must have ", bits - left, " bits, got ", prefix);
}

inline void check_k(int64_t k, int64_t total) {
  STD_TORCH_CHECK(k >= 1 && k <= total, "`k` must lie in [1, ", total, "], got ", k);
}

inline void check_mask(const Tensor& mask, const Tensors& tensors) {
  check_dim(mask, "mask", 1);
  check_type(mask, "mask", ScalarType::Long);
  check_contiguous(mask, "mask");
  check_size(mask, "mask", 0, words_of(tensors));
}

// That k is the number of ones is for those to find out that can read the mask.
inline void check_possible(int64_t k, const Tensors& tensors) {
  const int64_t total = elements_of(tensors);
  STD_TORCH_CHECK(k >= 0 && k <= total, "`k` must lie in [0, ", total, "], got ", k);
}

// int32 holds the index of an element of any tensor but the very largest.
inline ScalarType index_type(const Tensors& tensors) {
  constexpr int64_t limit = int64_t(1) << 31;
  const auto large = [](const Tensor& t) { return t.numel() >= limit; };
  return std::any_of(tensors.begin(), tensors.end(), large) ? ScalarType::Long : ScalarType::Int;
}

}  // namespace fastforget
