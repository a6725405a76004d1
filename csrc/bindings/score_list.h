// A list of score tensors cut into chunks, and the threshold that select found for it.
#pragma once

#include "../kernels/select.h"
#include "check.h"

namespace fastforget {

struct ScoreList {
  static constexpr int64_t kChunk = 1 << 16;

  struct Origin {
    int64_t tensor, offset;
  };

  explicit ScoreList(const Tensors& tensors) {
    STD_TORCH_CHECK(!tensors.empty(), "`scores` must not be empty");
    dtype = dtype_of(tensors[0], "scores");
    STD_TORCH_CHECK(dtype == DType::f32 || dtype == DType::f64,
                    "`scores` must be float32 or float64, got ",
                    torch::headeronly::toString(tensors[0].scalar_type()));
    for (size_t l = 0; l < tensors.size(); ++l) {
      check_type(tensors[l], "scores", tensors[0].scalar_type());
      check_contiguous(tensors[l], "scores");
      const char* data = static_cast<const char*>(tensors[l].const_data_ptr());
      const int64_t size = tensors[l].numel();
      for (int64_t offset = 0; offset < size; offset += kChunk) {
        chunks.push_back(
            {data + offset * key_bits(dtype) / 8, std::min(kChunk, size - offset), total + offset});
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
