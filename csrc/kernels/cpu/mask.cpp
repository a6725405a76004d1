// Counts the ones of a mask per chunk, and writes the mask as bytes or as indices. Each pass reads
// the mask once; writing the bytes or the indices is what bounds it.
#include "mask.h"

#include "dispatch.h"
#include "element.h"

namespace fastforget::cpu {

RankedMask::RankedMask(const BitMask& mask, const Parallel& parallel)
    : words_(mask.words), chunks_(chunks_of(mask.L, mask.sizes)), ranks_(chunks_.size() + 1) {
  for_chunks(chunks_.size(), parallel, [&](size_t c) {
    ranks_[c + 1] = select_kernels().count_ones(words(chunks_[c]), chunks_[c].words());
  });
  for (size_t c = 0; c < chunks_.size(); ++c) ranks_[c + 1] += ranks_[c];
}

bool RankedMask::is_within_tensors() const {
  for (const Chunk& chunk : chunks_) {
    const int64_t used = chunk.size % kWordElements;  // bits of the last word; 0: all
    if (used > 0 && words(chunk)[chunk.words() - 1] >> used != 0) return false;
  }
  return true;
}

void mask_bytes(const RankedMask& mask, bool* const* out, const Parallel& parallel) {
  for_chunks(mask.chunks().size(), parallel, [&](size_t c) {
    const Chunk& chunk = mask.chunks()[c];
    const uint64_t* const words = mask.words(chunk);
    bool* const bytes = out[chunk.tensor] + chunk.offset;
    for (int64_t i = 0; i < chunk.size; ++i)
      bytes[i] = words[i / kWordElements] >> i % kWordElements & 1;
  });
}

void mask_indices(const RankedMask& mask, int index_size, void* indices, int64_t* counts,
                  const Parallel& parallel) {
  with_word(index_size, [&](auto index) {
    using Index = decltype(index);
    for_chunks(mask.chunks().size(), parallel, [&](size_t c) {
      const Chunk& chunk = mask.chunks()[c];
      Index* const to = static_cast<Index*>(indices) + mask.rank(c);
      for_ones(mask.words(chunk), chunk.words(),
               [&](int64_t at, int64_t rank) { to[rank] = static_cast<Index>(chunk.offset + at); });
    });
  });
  for (size_t c = 0; c < mask.chunks().size(); ++c)
    counts[mask.chunks()[c].tensor] += mask.rank(c + 1) - mask.rank(c);
}

}  // namespace fastforget::cpu
