// perturb, perturb_undo and perturb_write on the CPU.
#include "../../kernels/cpu/perturb.h"

#include "../perturb_check.h"
#include "large_pages.h"
#include "ranked_mask.h"

namespace fastforget {
namespace {

Tensor perturb(const Tensors& parameters, const Tensors& directions, const Tensor& mask, int64_t k,
               double alpha) {
  const DType dtype = check_parameters(parameters);
  const DType direction = check_directions(directions, parameters);
  const cpu::RankedMask ranked = ranked_mask(mask, parameters);
  check_ones(ranked, k);
  Tensor old = torch::stable::new_empty(parameters[0], std::vector<int64_t>{k});
  use_large_pages(old);
  cpu::perturb(ranked, dtype, direction, mutable_data_of(parameters).data(),
               data_of(directions).data(), alpha, old.mutable_data_ptr(), kTorchThreads);
  return old;
}

void perturb_undo(const Tensors& parameters, const Tensor& mask, const Tensor& old) {
  check_parameters(parameters);
  check_old(old, parameters);
  const cpu::RankedMask ranked = ranked_mask(mask, parameters);
  check_size(old, "old", 0, ranked.ones());
  cpu::perturb_undo(ranked, int(old.element_size()), mutable_data_of(parameters).data(),
                    old.const_data_ptr(), kTorchThreads);
}

// What indices and counts hold, before anything is written.
template <class Index>
void check_places(const Tensors& parameters, const Tensor& indices, const int64_t* counts) {
  const Index* at = static_cast<const Index*>(indices.const_data_ptr());
  int64_t left = indices.size(0);
  for (size_t l = 0; l < parameters.size(); ++l) {
    STD_TORCH_CHECK(counts[l] >= 0 && counts[l] <= left, "`counts` must add up to ",
                    indices.size(0));
    const int64_t size = parameters[l].numel();
    for (const Index* end = at + counts[l]; at < end; ++at)
      STD_TORCH_CHECK(*at >= 0 && *at < size, "`indices` must lie in [0, ", size, "), got ", *at);
    left -= counts[l];
  }
  STD_TORCH_CHECK(left == 0, "`counts` must add up to ", indices.size(0), ", got ",
                  indices.size(0) - left);
}

void perturb_write(const Tensors& parameters, const Tensor& indices, const Tensor& counts,
                   const Tensor& values) {
  check_write(parameters, indices, counts, values);
  const int64_t* count = static_cast<const int64_t*>(counts.const_data_ptr());
  indices.scalar_type() == ScalarType::Long ? check_places<int64_t>(parameters, indices, count)
                                            : check_places<int32_t>(parameters, indices, count);
  cpu::perturb_write(counts.size(0), int(values.element_size()), int(indices.element_size()),
                     mutable_data_of(parameters).data(), indices.const_data_ptr(), count,
                     values.const_data_ptr());
}

}  // namespace
}  // namespace fastforget

STABLE_TORCH_LIBRARY_IMPL(fastforget, CPU, m) {
  m.impl("perturb", TORCH_BOX(&fastforget::perturb));
  m.impl("perturb_undo", TORCH_BOX(&fastforget::perturb_undo));
  m.impl("perturb_write", TORCH_BOX(&fastforget::perturb_write));
}
