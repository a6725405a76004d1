// select on CUDA devices. Nothing waits for the device, so NaN is not raised: the threshold is NaN.
#include "../../kernels/cuda/select.h"

#include "context.h"
#include "list.h"

namespace fastforget {
namespace {

using cuda::Context;

std::tuple<Tensor, Tensor> select(const Tensors& scores, int64_t k) {
  const DType dtype = check_scores(scores);
  check_k(k, elements_of(scores));
  const Context context(scores[0]);
  context.check(scores, "scores");
  const std::vector<int64_t> sizes = cuda::sizes_of(scores);
  const std::vector<const void*> data = cuda::data_of(scores);
  const cuda::ScoreTensors list{dtype, static_cast<int64_t>(scores.size()), sizes.data(),
                                data.data()};
  Tensor mask =
      torch::stable::new_empty(scores[0], std::vector<int64_t>{words_of(scores)}, ScalarType::Long);
  Tensor threshold = torch::stable::new_empty(scores[0], std::vector<int64_t>{});
  Tensor scratch = Context::scratch(mask, cuda::select_bytes(list));
  Context::run(cuda::select(list, k, static_cast<uint64_t*>(mask.mutable_data_ptr()),
                            threshold.mutable_data_ptr(), scratch.mutable_data_ptr(),
                            context.stream()));
  return {mask, threshold};
}

Tensor select_histogram(const Tensors& scores, int64_t prefix, int64_t left, int64_t shift) {
  const DType dtype = check_scores(scores);
  check_digit(dtype, prefix, left, shift);
  const Context context(scores[0]);
  context.check(scores, "scores");
  const std::vector<int64_t> sizes = cuda::sizes_of(scores);
  const std::vector<const void*> data = cuda::data_of(scores);
  const int64_t L = static_cast<int64_t>(scores.size());
  Tensor counts = torch::stable::new_zeros(
      scores[0], std::vector<int64_t>{L, int64_t(1) << (left - shift)}, ScalarType::Long);
  Context::run(cuda::select_histogram(
      {dtype, L, sizes.data(), data.data()}, uint64_t(prefix), int(left), int(shift),
      static_cast<int64_t*>(counts.mutable_data_ptr()), context.stream()));
  return counts;
}

}  // namespace
}  // namespace fastforget

FASTFORGET_REGISTER(FASTFORGET_DEVICE, m) {
  m.impl("select", TORCH_BOX(&fastforget::select));
  m.impl("select_histogram", TORCH_BOX(&fastforget::select_histogram));
}
