// A list of score tensors cut into chunks, how threads share them, and the threshold that select
// found for them.
#pragma once

#include <algorithm>
#include <atomic>

#include "../kernels/select.h"
#include "check.h"

namespace fastforget {

struct ScoreList {
  static constexpr int64_t kChunk = 1 << 14;

  struct Origin {
    int64_t tensor, offset;
  };

  explicit ScoreList(const Tensors& tensors) {
    STD_TORCH_CHECK(!tensors.empty(), "`scores` must not be empty");
    dtype = dtype_of(tensors[0], "scores");
    for (size_t l = 0; l < tensors.size(); ++l) {
      check_type(tensors[l], "scores", tensors[0].scalar_type());
      check_contiguous(tensors[l], "scores");
      const char* data = static_cast<const char*>(tensors[l].const_data_ptr());
      const int64_t size = tensors[l].numel(), bytes = tensors[l].element_size();
      for (int64_t offset = 0; offset < size; offset += kChunk) {
        chunks.push_back({data + offset * bytes, std::min(kChunk, size - offset), total + offset});
        origins.push_back({static_cast<int64_t>(l), offset});
      }
      total += size;
    }
  }

  DType dtype;
  int64_t total = 0;
  std::vector<ScoreChunk> chunks;
  std::vector<Origin> origins;
};

// Calls worker(take) on every thread; take() gives each the next chunk in order, until it is no
// index of `chunks` any more. Chunks are short and of uneven size: none waits for a thread's share.
template <class Worker>
void share_chunks(const std::vector<ScoreChunk>& chunks, const Worker& worker) {
  constexpr size_t kAlone = 8;  // waking a thread takes about as long
  std::atomic<size_t> next{0};
  const auto take = [&next] { return next.fetch_add(1, std::memory_order_relaxed); };
  if (chunks.size() <= kAlone) return worker(take);
  torch::stable::parallel_for(0, static_cast<int64_t>(chunks.size()), 1,
                              [&](int64_t, int64_t) { worker(take); });
}

// Scores above the key are selected, and those equal to it before position `cut`.
struct Threshold {
  Threshold(const ScoreList& scores, const Tensor& threshold, const Tensor& position) {
    check_dim(threshold, "threshold", 0);
    STD_TORCH_CHECK(dtype_of(threshold, "threshold") == scores.dtype,
                    "`threshold` must have the dtype of `scores`");
    check_dim(position, "cut", 0);
    check_type(position, "cut", ScalarType::Long);
    key = key_of(scores.dtype, threshold.const_data_ptr());
    cut = *static_cast<const int64_t*>(position.const_data_ptr());
  }
  uint64_t key;
  int64_t cut;
};

}  // namespace fastforget
