// Counts one digit of the keys of each tensor. Threads take chunks in turn and count in a table of
// their own, which they add to the result when they go on to the next tensor. Bound by the read of
// the scores, or by the counting where they are in a cache.
#include <algorithm>
#include <mutex>
#include <vector>

#include "chunks.h"
#include "dispatch.h"
#include "select.h"

namespace fastforget::cpu {

void select_histogram(const ScoreTensors& scores, uint64_t prefix, int left, int shift,
                      int64_t* counts, const Parallel& parallel) {
  const int64_t digits = int64_t(1) << (left - shift), bytes = element_size(scores.dtype);
  const uint64_t key = left == 64 ? 0 : prefix << left;
  const std::vector<Chunk> chunks = chunks_of(scores.L, scores.sizes);
  std::mutex mutex;
  share_chunks(chunks.size(), parallel, [&](const auto& take) {
    std::vector<int64_t> own(size_t(digits), 0);
    int64_t tensor = 0;  // whose chunks were counted last
    const auto go_on_to = [&](int64_t next) {
      if (next == tensor) return;
      const std::lock_guard lock(mutex);
      for (int64_t digit = 0; digit < digits; ++digit)
        counts[tensor * digits + digit] += own[size_t(digit)];
      std::fill(own.begin(), own.end(), 0);
      tensor = next;
    };
    for (size_t c; (c = take()) < chunks.size();) {
      const Chunk& chunk = chunks[c];
      const char* const data = static_cast<const char*>(scores.scores[chunk.tensor]);
      go_on_to(chunk.tensor);
      select_kernels().histogram(scores.dtype, {data + chunk.offset * bytes, chunk.size, 0}, key,
                                 left, shift, own.data());
    }
    go_on_to(-1);
  });
}

}  // namespace fastforget::cpu
