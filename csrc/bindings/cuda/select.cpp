// select and select_histogram on CUDA devices. Nothing waits for the device, so NaN raises no
// error: the threshold is NaN.
#include "../../kernels/cuda/select.h"

#include "../select_check.h"
#include "context.h"

namespace fastforget {
namespace {

using cuda::Context;

std::tuple<Tensor, Tensor> select(const Tensors& scores, int64_t k) {
  const ScoreList list(scores);
  check_k(k, elements_of(scores));
  const Context context(scores[0]);
  context.check(scores, "scores");
  Tensor mask = new_bit_mask(scores);
  Tensor threshold = torch::stable::new_empty(scores[0], std::vector<int64_t>{});
  Tensor scratch = Context::scratch(mask, cuda::select_bytes(list.view()));
  Context::run(cuda::select(list.view(), k, static_cast<uint64_t*>(mask.mutable_data_ptr()),
                            threshold.mutable_data_ptr(), scratch.mutable_data_ptr(),
                            context.stream()));
  return {mask, threshold};
}

Tensor select_histogram(const Tensors& scores, int64_t prefix, int64_t left, int64_t shift) {
  const ScoreList list(scores);
  check_digit(list.dtype(), prefix, left, shift);
  const Context context(scores[0]);
  context.check(scores, "scores");
  Tensor counts = new_digit_counts(scores, left - shift);
  Context::run(cuda::select_histogram(list.view(), uint64_t(prefix), int(left), int(shift),
                                      static_cast<int64_t*>(counts.mutable_data_ptr()),
                                      context.stream()));
  return counts;
}

}  // namespace
}  // namespace fastforget

FASTFORGET_REGISTER(FASTFORGET_DEVICE, m) {
  m.impl("select", TORCH_BOX(&fastforget::select));
  m.impl("select_histogram", TORCH_BOX(&fastforget::select_histogram));
}
