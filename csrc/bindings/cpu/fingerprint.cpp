// fingerprint on the CPU.
#include "../../kernels/cpu/fingerprint.h"

#include "../fingerprint_check.h"
#include "torch_threads.h"

namespace fastforget {
namespace {

Tensor fingerprint(const Tensors& tensors) {
  check_fingerprint(tensors);
  Tensor result = new_fingerprints(tensors);
  uint64_t* sums = static_cast<uint64_t*>(result.mutable_data_ptr());
  for (const Tensor& t : tensors) {
    cpu::fingerprint(t.const_data_ptr(), static_cast<int>(t.element_size()), t.numel(), sums,
                     kTorchThreads);
    sums += 2;
  }
  return result;
}

}  // namespace
}  // namespace fastforget

STABLE_TORCH_LIBRARY_IMPL(fastforget, CPU, m) {
  m.impl("fingerprint", TORCH_BOX(&fastforget::fingerprint));
}
