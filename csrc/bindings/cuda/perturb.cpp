// perturb, perturb_undo, perturb_write and fingerprint on CUDA devices. What a mask, indices and
// counts hold is not read here, for that would wait for the device: the kernels ignore what does
// not fit.
#include "../../kernels/cuda/perturb.h"

#include "../../kernels/cuda/fingerprint.h"
#include "../perturb_check.h"
#include "context.h"
#include "list.h"

namespace fastforget {
namespace {

using cuda::Context, cuda::Marked;

Tensor perturb(const Tensors& parameters, const Tensors& directions, const Tensor& mask, int64_t k,
               double alpha) {
  const DType dtype = check_parameters(parameters), step = check_directions(directions, parameters);
  const Marked marked(mask, parameters);
  check_possible(k, parameters);
  const Context context(mask);
  context.check(parameters, "parameters");
  context.check(directions, "directions");
  Tensor old = torch::stable::new_empty(parameters[0], std::vector<int64_t>{k});
  Tensor scratch = Context::scratch(mask, cuda::mask_scratch_bytes(marked));
  Context::run(cuda::perturb(marked, dtype, step, cuda::mutable_data_of(parameters).data(),
                             cuda::data_of(directions).data(), alpha, k, old.mutable_data_ptr(),
                             scratch.mutable_data_ptr(), context.stream()));
  return old;
}

void perturb_undo(const Tensors& parameters, const Tensor& mask, const Tensor& old) {
  check_parameters(parameters);
  check_old(old, parameters);
  const Marked marked(mask, parameters);
  const Context context(mask);
  context.check(parameters, "parameters");
  context.check(old, "old");
  Tensor scratch = Context::scratch(mask, cuda::mask_scratch_bytes(marked));
  Context::run(cuda::perturb_undo(
      marked, int(old.element_size()), cuda::mutable_data_of(parameters).data(), old.size(0),
      old.const_data_ptr(), scratch.mutable_data_ptr(), context.stream()));
}

void perturb_write(const Tensors& parameters, const Tensor& indices, const Tensor& counts,
                   const Tensor& values) {
  check_write(parameters, indices, counts, values);
  const Context context(indices);
  context.check(parameters, "parameters");
  context.check(counts, "counts");
  context.check(values, "values");
  const int64_t L = counts.size(0);
  Tensor scratch = Context::scratch(indices, cuda::perturb_write_bytes(L));
  Context::run(cuda::perturb_write(
      L, cuda::sizes_of(parameters).data(), int(values.element_size()), int(indices.element_size()),
      cuda::mutable_data_of(parameters).data(), indices.const_data_ptr(),
      static_cast<const int64_t*>(counts.const_data_ptr()), values.const_data_ptr(), values.size(0),
      scratch.mutable_data_ptr(), context.stream()));
}

Tensor fingerprint(const Tensors& tensors) {
  STD_TORCH_CHECK(!tensors.empty(), "`tensors` must not be empty");
  const Context context(tensors[0]);
  context.check(tensors, "tensors");
  std::vector<int> element_sizes;
  for (const Tensor& t : tensors) {
    check_contiguous(t, "tensors");
    element_sizes.push_back(static_cast<int>(t.element_size()));
  }
  const int64_t L = static_cast<int64_t>(tensors.size());
  Tensor sums = torch::stable::new_empty(tensors[0], std::vector<int64_t>{L, 2}, ScalarType::Long);
  Context::run(cuda::fingerprint(
      L, cuda::sizes_of(tensors).data(), element_sizes.data(), cuda::data_of(tensors).data(),
      static_cast<uint64_t*>(sums.mutable_data_ptr()), context.stream()));
  return sums;
}

}  // namespace
}  // namespace fastforget

FASTFORGET_REGISTER(FASTFORGET_DEVICE, m) {
  m.impl("perturb", TORCH_BOX(&fastforget::perturb));
  m.impl("perturb_undo", TORCH_BOX(&fastforget::perturb_undo));
  m.impl("perturb_write", TORCH_BOX(&fastforget::perturb_write));
  m.impl("fingerprint", TORCH_BOX(&fastforget::fingerprint));
}
