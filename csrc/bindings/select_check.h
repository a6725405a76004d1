// What the selection operators ask of their arguments, on any device, and the shapes of their
// results.
#pragma once

#include <algorithm>

#include "../kernels/bit_mask.h"
#include "../kernels/select.h"
#include "check.h"
#include "tensor_list.h"

namespace fastforget {

// Words of the bit mask of a list of tensors.
inline int64_t words_of(const Tensors& tensors) {
  int64_t words = 0;
  for (const Tensor& t : tensors) words += mask_words(t.numel());
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

// For devices whose memory is not read here: whether k is the number of ones stays open.
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

// Checked scores, and the arrays that the kernels' view of them points to.
class ScoreList {
 public:
  explicit ScoreList(const Tensors& scores)
      : dtype_(check_scores(scores)), sizes_(sizes_of(scores)), data_(data_of(scores)) {}

  DType dtype() const { return dtype_; }
  ScoreTensors view() const {
    return {dtype_, static_cast<int64_t>(sizes_.size()), sizes_.data(), data_.data()};
  }

 private:
  DType dtype_;
  std::vector<int64_t> sizes_;
  std::vector<const void*> data_;
};

// A checked mask with the sizes of the tensors it is of.
class MaskOfTensors {
 public:
  MaskOfTensors(const Tensor& mask, const Tensors& tensors) : sizes_(sizes_of(tensors)) {
    check_mask(mask, tensors);
    words_ = static_cast<const uint64_t*>(mask.const_data_ptr());
  }

  BitMask view() const { return {words_, static_cast<int64_t>(sizes_.size()), sizes_.data()}; }

 private:
  std::vector<int64_t> sizes_;
  const uint64_t* words_;
};

// An uninitialised bit mask of the tensors.
inline Tensor new_bit_mask(const Tensors& tensors) {
  return torch::stable::new_empty(tensors[0], std::vector<int64_t>{words_of(tensors)},
                                  ScalarType::Long);
}

// Zeros [L, 2^bits] for the counts of a digit of so many bits in each of L tensors.
inline Tensor new_digit_counts(const Tensors& scores, int64_t bits) {
  return torch::stable::new_zeros(
      scores[0], std::vector<int64_t>{static_cast<int64_t>(scores.size()), int64_t(1) << bits},
      ScalarType::Long);
}

// Uninitialised bool tensors of the shapes of `like`, on the device of the mask.
inline Tensors new_bool_masks(const Tensor& mask, const Tensors& like) {
  Tensors masks;
  for (const Tensor& t : like)
    masks.push_back(torch::stable::new_empty(
        mask, std::vector<int64_t>(t.sizes().begin(), t.sizes().end()), ScalarType::Bool));
  return masks;
}

}  // namespace fastforget
