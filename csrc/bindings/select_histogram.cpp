// select_histogram on the CPU.
#include <mutex>

#include "../kernels/select.h"
#include "bit_mask.h"
#include "check.h"

namespace fastforget {
namespace {

Tensor select_histogram(const Tensors& scores, int64_t prefix, int64_t left, int64_t shift) {
  const DType dtype = check_scores(scores);
  check_digit(dtype, prefix, left, shift);
  const int64_t digits = int64_t(1) << (left - shift);
  Tensor result = torch::stable::new_zeros(
      scores[0], std::vector<int64_t>{static_cast<int64_t>(scores.size()), digits},
      ScalarType::Long);
  int64_t* const counts = static_cast<int64_t*>(result.mutable_data_ptr());
  const uint64_t start = left == 64 ? 0 : uint64_t(prefix) << left;
  const std::vector<Chunk> chunks = chunks_of(scores);
  std::mutex mutex;
  share_chunks(chunks.size(), [&](const auto& take) {
    std::vector<int64_t> mine(size_t(digits), 0);
    int64_t tensor = 0;  // whose chunks a thread takes one after another
    const auto hand_over = [&](int64_t next) {
      if (next == tensor) return;
      const std::lock_guard lock(mutex);
      for (int64_t digit = 0; digit < digits; ++digit)
        counts[tensor * digits + digit] += mine[size_t(digit)];
      std::fill(mine.begin(), mine.end(), 0);
      tensor = next;
    };
    for (size_t c; (c = take()) < chunks.size();) {
      const Chunk& chunk = chunks[c];
      const Tensor& t = scores[size_t(chunk.tensor)];
      const char* data = static_cast<const char*>(t.const_data_ptr());
      hand_over(chunk.tensor);
      cpu::select_kernels().histogram(
          dtype, {data + chunk.offset * int64_t(t.element_size()), chunk.size, 0}, start, int(left),
          int(shift), mine.data());
    }
    hand_over(-1);
  });
  return result;
}

}  // namespace
}  // namespace fastforget

STABLE_TORCH_LIBRARY_IMPL(fastforget, CPU, m) {
  m.impl("select_histogram", TORCH_BOX(&fastforget::select_histogram));
}
