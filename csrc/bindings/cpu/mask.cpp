// What select returns as bool tensors and as indices, on the CPU.
#include "../../kernels/cpu/mask.h"

#include "large_pages.h"
#include "ranked_mask.h"

namespace fastforget {
namespace {

Tensors select_mask(const Tensor& mask, const Tensors& like) {
  const cpu::RankedMask ranked = ranked_mask(mask, like);
  Tensors masks = new_bool_masks(mask, like);
  std::vector<bool*> data;
  for (Tensor& t : masks) {
    use_large_pages(t);
    data.push_back(static_cast<bool*>(t.mutable_data_ptr()));
  }
  cpu::mask_bytes(ranked, data.data(), kTorchThreads);
  return masks;
}

std::tuple<Tensor, Tensor> select_indices(const Tensor& mask, const Tensors& like, int64_t k) {
  const cpu::RankedMask ranked = ranked_mask(mask, like);
  check_ones(ranked, k);
  Tensor indices = torch::stable::new_empty(mask, std::vector<int64_t>{k}, index_type(like));
  Tensor counts =
      torch::stable::new_zeros(mask, std::vector<int64_t>{static_cast<int64_t>(like.size())});
  use_large_pages(indices);
  cpu::mask_indices(ranked, int(indices.element_size()), indices.mutable_data_ptr(),
                    static_cast<int64_t*>(counts.mutable_data_ptr()), kTorchThreads);
  return {indices, counts};
}

}  // namespace
}  // namespace fastforget

STABLE_TORCH_LIBRARY_IMPL(fastforget, CPU, m) {
  m.impl("select_mask", TORCH_BOX(&fastforget::select_mask));
  m.impl("select_indices", TORCH_BOX(&fastforget::select_indices));
}
