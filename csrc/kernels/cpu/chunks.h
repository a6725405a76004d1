// A list of tensors cut into chunks, and how threads share those.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "../bit_mask.h"
#include "parallel.h"

namespace fastforget::cpu {

// Elements [offset, offset + size) of a tensor of the list. They begin at `word` of the list's bit
// mask.
struct Chunk {
  static constexpr int64_t kSize = 1 << 15;

  int64_t tensor, offset, size, word;

  int64_t words() const { return mask_words(size); }
};

// The chunks of L tensors of sizes [L].
inline std::vector<Chunk> chunks_of(int64_t L, const int64_t* sizes) {
  int64_t count = 0, word = 0;
  for (int64_t l = 0; l < L; ++l) count += (sizes[l] + Chunk::kSize - 1) / Chunk::kSize;
  std::vector<Chunk> chunks;
  chunks.reserve(static_cast<size_t>(count));
  for (int64_t l = 0; l < L; ++l) {
    for (int64_t offset = 0; offset < sizes[l]; offset += Chunk::kSize) {
      chunks.push_back({l, offset, std::min(Chunk::kSize, sizes[l] - offset), word});
      word += chunks.back().words();
    }
  }
  return chunks;
}

// Calls worker(take) on every thread. take() returns the next of `count` chunks that nobody has
// taken, or an index beyond the last. Chunks are short and their work is uneven, so no thread gets
// a fixed share for which the others would wait.
template <class Worker>
void share_chunks(size_t count, const Parallel& parallel, const Worker& worker) {
  constexpr size_t kAlone = 8;  // waking a thread takes about as long
  std::atomic<size_t> next{0};
  const auto take = [&next] { return next.fetch_add(1, std::memory_order_relaxed); };
  if (count <= kAlone) return worker(take);
  parallel(static_cast<int64_t>(count), 1, [&](int64_t, int64_t) { worker(take); });
}

// Calls visit(chunk index) for every chunk, in parallel.
template <class Visit>
void for_chunks(size_t count, const Parallel& parallel, const Visit& visit) {
  share_chunks(count, parallel, [&](const auto& take) {
    for (size_t c; (c = take()) < count;) visit(c);
  });
}

}  // namespace fastforget::cpu
