// The bit mask of a list of tensors, cut into chunks, and how threads share those.
#pragma once

#include <algorithm>
#include <atomic>

#include "../kernels/cpu/dispatch.h"
#include "mask_check.h"

namespace fastforget {

// Elements [offset, offset + size) of a tensor of the list, at `word` of its mask: words of 64
// elements, every tensor beginning a word.
struct Chunk {
  static constexpr int64_t kSize = 1 << 15;

  int64_t tensor, offset, size, word;

  int64_t words() const { return (size + SelectKernels::kWord - 1) / SelectKernels::kWord; }
};

inline std::vector<Chunk> chunks_of(const Tensors& tensors) {
  int64_t count = 0, word = 0;
  for (const Tensor& t : tensors) count += (t.numel() + Chunk::kSize - 1) / Chunk::kSize;
  std::vector<Chunk> chunks;
  chunks.reserve(static_cast<size_t>(count));
  for (size_t l = 0; l < tensors.size(); ++l) {
    const int64_t size = tensors[l].numel();
    for (int64_t offset = 0; offset < size; offset += Chunk::kSize) {
      chunks.push_back(
          {static_cast<int64_t>(l), offset, std::min(Chunk::kSize, size - offset), word});
      word += chunks.back().words();
    }
  }
  return chunks;
}

// Calls worker(take) on every thread; take() gives each the next of `count` chunks, and then no
// index below it any more. Chunks are short and of uneven size: none waits for a thread's share.
template <class Worker>
void share_chunks(size_t count, const Worker& worker) {
  constexpr size_t kAlone = 8;  // waking a thread takes about as long
  std::atomic<size_t> next{0};
  const auto take = [&next] { return next.fetch_add(1, std::memory_order_relaxed); };
  if (count <= kAlone) return worker(take);
  torch::stable::parallel_for(0, static_cast<int64_t>(count), 1,
                              [&](int64_t, int64_t) { worker(take); });
}

// Calls visit(chunk index) for every chunk, in parallel.
template <class Visit>
void for_chunks(size_t count, const Visit& visit) {
  share_chunks(count, [&](const auto& take) {
    for (size_t c; (c = take()) < count;) visit(c);
  });
}

// A mask from outside with the tensors it is of, and the rank of each chunk's first one.
struct BitMask {
  BitMask(const Tensor& mask, const Tensors& tensors)
      : chunks(chunks_of(tensors)), ranks(chunks.size() + 1) {
    check_mask(mask, tensors);
    words = static_cast<const uint64_t*>(mask.const_data_ptr());
    for (const Chunk& chunk : chunks) {
      const int64_t left = chunk.size % SelectKernels::kWord;
      STD_TORCH_CHECK(left == 0 || of(chunk)[chunk.words() - 1] >> left == 0,
                      "`mask` must not go beyond the end of a tensor");
    }
    for_chunks(chunks.size(), [&](size_t c) {
      ranks[c + 1] = cpu::select_kernels().count(of(chunks[c]), chunks[c].words());
    });
    for (size_t c = 0; c < chunks.size(); ++c) ranks[c + 1] += ranks[c];
  }

  const uint64_t* of(const Chunk& chunk) const { return words + chunk.word; }
  int64_t ones() const { return ranks.back(); }

  const uint64_t* words;
  std::vector<Chunk> chunks;
  std::vector<int64_t> ranks;
};

inline void check_ones(const BitMask& mask, int64_t k) {
  STD_TORCH_CHECK(mask.ones() == k, "`k` must be the number of selected elements, ", mask.ones(),
                  ", got ", k);
}

}  // namespace fastforget
