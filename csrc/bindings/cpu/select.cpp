// select and select_histogram on the CPU.
#include "../../kernels/cpu/select.h"

#include "../select_check.h"
#include "large_pages.h"
#include "torch_threads.h"

namespace fastforget {
namespace {

std::tuple<Tensor, Tensor> select(const Tensors& scores, int64_t k) {
  const ScoreList list(scores);
  check_k(k, elements_of(scores));
  Tensor mask = new_bit_mask(scores);
  Tensor threshold = torch::stable::new_empty(scores[0], std::vector<int64_t>{});
  use_large_pages(mask);
  const int64_t nan = cpu::select(list.view(), k, static_cast<uint64_t*>(mask.mutable_data_ptr()),
                                  threshold.mutable_data_ptr(), kTorchThreads);
  STD_TORCH_CHECK(nan == 0, "`scores` must not be NaN, got ", nan, " NaN elements");
  return {mask, threshold};
}

Tensor select_histogram(const Tensors& scores, int64_t prefix, int64_t left, int64_t shift) {
  const ScoreList list(scores);
  check_digit(list.dtype(), prefix, left, shift);
  Tensor counts = new_digit_counts(scores, left - shift);
  cpu::select_histogram(list.view(), uint64_t(prefix), int(left), int(shift),
                        static_cast<int64_t*>(counts.mutable_data_ptr()), kTorchThreads);
  return counts;
}

}  // namespace
}  // namespace fastforget

STABLE_TORCH_LIBRARY_IMPL(fastforget, CPU, m) {
  m.impl("select", TORCH_BOX(&fastforget::select));
  m.impl("select_histogram", TORCH_BOX(&fastforget::select_histogram));
}
