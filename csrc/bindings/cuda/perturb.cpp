// perturb, perturb_undo and perturb_write on CUDA devices. What a mask, indices and counts hold is
// not checked here, for that would wait for the device: the kernels ignore what does not fit.
#include "../../kernels/cuda/perturb.h"

#include "../perturb_check.h"
#include "../select_check.h"
#include "context.h"

namespace fastforget {
namespace {

using cuda::Context;

Tensor perturb(const Tensors& parameters, const Tensors& directions, const Tensor& mask, int64_t k,
               double alpha) {
  const DType dtype = check_parameters(parameters);
  const DType direction = check_directions(directions, parameters);
  const MaskOfTensors marked(mask, parameters);
  check_possible(k, parameters);
  const Context context(mask);
  context.check(parameters, "parameters");
  context.check(directions, "directions");
  Tensor old = torch::stable::new_empty(parameters[0], std::vector<int64_t>{k});
  Tensor scratch = Context::scratch(mask, cuda::mask_scratch_bytes(marked.view()));
  Context::run(cuda::perturb(marked.view(), dtype, direction, mutable_data_of(parameters).data(),
                             data_of(directions).data(), alpha, k, old.mutable_data_ptr(),
                             scratch.mutable_data_ptr(), context.stream()));
  return old;
}

void perturb_undo(const Tensors& parameters, const Tensor& mask, const Tensor& old) {
  check_parameters(parameters);
  check_old(old, parameters);
  const MaskOfTensors marked(mask, parameters);
  const Context context(mask);
  context.check(parameters, "parameters");
  context.check(old, "old");
  Tensor scratch = Context::scratch(mask, cuda::mask_scratch_bytes(marked.view()));
  Context::run(cuda::perturb_undo(
      marked.view(), int(old.element_size()), mutable_data_of(parameters).data(), old.size(0),
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
      L, sizes_of(parameters).data(), int(values.element_size()), int(indices.element_size()),
      mutable_data_of(parameters).data(), indices.const_data_ptr(),
      static_cast<const int64_t*>(counts.const_data_ptr()), values.const_data_ptr(), values.size(0),
      scratch.mutable_data_ptr(), context.stream()));
}

}  // namespace
}  // namespace fastforget

FASTFORGET_REGISTER(FASTFORGET_DEVICE, m) {
  m.impl("perturb", TORCH_BOX(&fastforget::perturb));
  m.impl("perturb_undo", TORCH_BOX(&fastforget::perturb_undo));
  m.impl("perturb_write", TORCH_BOX(&fastforget::perturb_write));
}
