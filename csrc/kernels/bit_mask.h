// The selected elements of a list of tensors as bits: words of 64 elements, bit 0 first. Every
// tensor begins a word, and the bits behind its last element are zero.
#pragma once

#include <cstdint>

namespace fastforget {

constexpr int64_t kWordElements = 64;

// Words that the mask of one tensor takes.
inline int64_t mask_words(int64_t elements) {
  return (elements + kWordElements - 1) / kWordElements;
}

// The mask of L contiguous tensors.
struct BitMask {
  const uint64_t* words;
  int64_t L;
  const int64_t* sizes;  // [L] elements
};

}  // namespace fastforget
