// What select returns as bool tensors and as indices, on CUDA devices.
#include "../../kernels/cuda/mask.h"

#include "../select_check.h"
#include "context.h"

namespace fastforget {
namespace {

using cuda::Context;

Tensors select_mask(const Tensor& mask, const Tensors& like) {
  const MaskOfTensors marked(mask, like);
  const Context context(mask);
  Tensors masks = new_bool_masks(mask, like);
  Context::run(cuda::mask_bytes(marked.view(), mutable_data_of(masks).data(), context.stream()));
  return masks;
}

std::tuple<Tensor, Tensor> select_indices(const Tensor& mask, const Tensors& like, int64_t k) {
  const MaskOfTensors marked(mask, like);
  check_possible(k, like);
  const Context context(mask);
  Tensor indices = torch::stable::new_empty(mask, std::vector<int64_t>{k}, index_type(like));
  Tensor counts =
      torch::stable::new_empty(mask, std::vector<int64_t>{static_cast<int64_t>(like.size())});
  Tensor scratch = Context::scratch(mask, cuda::mask_scratch_bytes(marked.view()));
  Context::run(cuda::mask_indices(marked.view(), int(indices.element_size()), k,
                                  indices.mutable_data_ptr(),
                                  static_cast<int64_t*>(counts.mutable_data_ptr()),
                                  scratch.mutable_data_ptr(), context.stream()));
  return {indices, counts};
}

}  // namespace
}  // namespace fastforget

FASTFORGET_REGISTER(FASTFORGET_DEVICE, m) {
  m.impl("select_mask", TORCH_BOX(&fastforget::select_mask));
  m.impl("select_indices", TORCH_BOX(&fastforget::select_indices));
}
