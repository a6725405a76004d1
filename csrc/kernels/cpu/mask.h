// The marked elements of a bit mask: where they come in the order of all, and the mask as bytes and
// as indices.
//
// Threads take chunks in turn. A first reading of the mask counts the ones of each chunk, so that a
// chunk knows where its elements go without waiting for those before it.
#pragma once

#include <cstdint>
#include <vector>

#include "../bit_mask.h"
#include "chunks.h"
#include "parallel.h"

namespace fastforget::cpu {

// A mask in chunks, with the number of ones before each.
class RankedMask {
 public:
  RankedMask(const BitMask&, const Parallel&);

  // Whether no bit is set behind the last element of a tensor.
  bool is_within_tensors() const;
  int64_t ones() const { return ranks_.back(); }

  const std::vector<Chunk>& chunks() const { return chunks_; }
  const uint64_t* words(const Chunk& chunk) const { return words_ + chunk.word; }
  // Ones before chunk c; c may be the number of chunks.
  int64_t rank(size_t c) const { return ranks_[c]; }

 private:
  const uint64_t* words_;
  std::vector<Chunk> chunks_;
  std::vector<int64_t> ranks_;
};

// Calls visit(index, rank) for every one of some words of a mask.
template <class Visit>
inline void for_ones(const uint64_t* words, int64_t count, const Visit& visit) {
  int64_t rank = 0;
  for (int64_t w = 0; w < count; ++w)
    for (uint64_t set = words[w]; set; set &= set - 1)
      visit(kWordElements * w + __builtin_ctzll(set), rank++);
}

// out[l][i] = whether element i of tensor l is marked.
void mask_bytes(const RankedMask&, bool* const* out, const Parallel&);

// The places of the marked elements within their tensors, int32 (index_size 4) or int64 (8), in
// order; and how many belong to each tensor, added to counts [L].
void mask_indices(const RankedMask&, int index_size, void* indices, int64_t* counts,
                  const Parallel&);

}  // namespace fastforget::cpu
