// What select returns as bool tensors and as indices, on the CPU.
#include "../kernels/perturb.h"
#include "bit_mask.h"
#include "check.h"
#include "large_pages.h"

namespace fastforget {
namespace {

Tensors select_mask(const Tensor& mask, const Tensors& like) {
  const BitMask bits(mask, like);
  Tensors masks;
  std::vector<bool*> data;
  for (const Tensor& t : like) {
    masks.push_back(torch::stable::new_empty(
        mask, std::vector<int64_t>(t.sizes().begin(), t.sizes().end()), ScalarType::Bool));
    use_large_pages(masks.back());
    data.push_back(static_cast<bool*>(masks.back().mutable_data_ptr()));
  }
  for_chunks(bits.chunks.size(), [&](size_t c) {
    const Chunk& chunk = bits.chunks[c];
    perturb_kernels_cpu().bytes(bits.of(chunk), chunk.size,
                                data[size_t(chunk.tensor)] + chunk.offset);
  });
  return masks;
}

std::tuple<Tensor, Tensor> select_indices(const Tensor& mask, const Tensors& like, int64_t k) {
  const BitMask bits(mask, like);
  check_ones(bits, k);
  Tensor indices = torch::stable::new_empty(mask, std::vector<int64_t>{k}, index_type(like));
  Tensor counts =
      torch::stable::new_zeros(mask, std::vector<int64_t>{static_cast<int64_t>(like.size())});
  use_large_pages(indices);
  const int64_t bytes = indices.element_size();
  char* const data = static_cast<char*>(indices.mutable_data_ptr());
  for_chunks(bits.chunks.size(), [&](size_t c) {
    const Chunk& chunk = bits.chunks[c];
    perturb_kernels_cpu().indices(int(bytes), bits.of(chunk), chunk.words(), chunk.offset,
                                  data + bits.ranks[c] * bytes);
  });
  int64_t* const per_tensor = static_cast<int64_t*>(counts.mutable_data_ptr());
  for (size_t c = 0; c < bits.chunks.size(); ++c)
    per_tensor[bits.chunks[c].tensor] += bits.ranks[c + 1] - bits.ranks[c];
  return {indices, counts};
}

}  // namespace
}  // namespace fastforget

STABLE_TORCH_LIBRARY_IMPL(fastforget, CPU, m) {
  m.impl("select_mask", TORCH_BOX(&fastforget::select_mask));
  m.impl("select_indices", TORCH_BOX(&fastforget::select_indices));
}
