// fingerprint on CUDA devices.
#include "../../kernels/cuda/fingerprint.h"

#include "../fingerprint_check.h"
#include "../tensor_list.h"
#include "context.h"

namespace fastforget {
namespace {

using cuda::Context;

Tensor fingerprint(const Tensors& tensors) {
  check_fingerprint(tensors);
  const Context context(tensors[0]);
  context.check(tensors, "tensors");
  std::vector<int> element_sizes;
  for (const Tensor& t : tensors) element_sizes.push_back(static_cast<int>(t.element_size()));
  Tensor sums = new_fingerprints(tensors);
  Context::run(cuda::fingerprint(
      static_cast<int64_t>(tensors.size()), sizes_of(tensors).data(), element_sizes.data(),
      data_of(tensors).data(), static_cast<uint64_t*>(sums.mutable_data_ptr()), context.stream()));
  return sums;
}

}  // namespace
}  // namespace fastforget

FASTFORGET_REGISTER(FASTFORGET_DEVICE, m) {
  m.impl("fingerprint", TORCH_BOX(&fastforget::fingerprint));
}
