// project, project_gram, project_weights and project_combine on the CPU.
#include "../../kernels/cpu/project.h"

#include "../project_check.h"
#include "../tensor_list.h"
#include "torch_threads.h"

namespace fastforget {
namespace {

Tensor project_gram(const Tensors& grads, int64_t tasks, bool per_tensor) {
  const GradList list(grads, tasks);
  Tensor gram = new_gram(list.view(), per_tensor, grads[0]);
  cpu::project_gram(list.view(), per_tensor, static_cast<double*>(gram.mutable_data_ptr()),
                    kTorchThreads);
  return gram;
}

Tensor project_weights(const Tensor& gram, const Tensor& order) {
  check_weights(gram, order);
  const int64_t S = gram.size(0), K = gram.size(1);
  const int64_t* tasks = static_cast<const int64_t*>(order.const_data_ptr());
  for (int64_t i = 0; i < order.numel(); ++i)
    STD_TORCH_CHECK(tasks[i] < K, "`order` must be less than ", K, ", got ", tasks[i]);
  Tensor weights = torch::stable::new_empty(gram, std::vector<int64_t>{S, K});
  cpu::project_weights(static_cast<const double*>(gram.const_data_ptr()), tasks, S, K,
                       order.size(1), static_cast<double*>(weights.mutable_data_ptr()));
  return weights;
}

void project_combine(const Tensors& grads, const Tensor& weights, const Tensors& out) {
  check_combine(grads, weights, out);
  const GradList list(grads, weights.size(1));
  cpu::project_combine(list.view(), weights.size(0),
                       static_cast<const double*>(weights.const_data_ptr()),
                       mutable_data_of(out).data(), kTorchThreads);
}

void project(const Tensors& grads, const Tensor& order, bool per_tensor, const Tensors& out) {
  check_dim(order, "order", 2);
  const GradList list(grads, order.size(0));
  check_out(grads, list.view().L, out);
  Tensor gram = new_gram(list.view(), per_tensor, grads[0]);
  cpu::project_gram(list.view(), per_tensor, static_cast<double*>(gram.mutable_data_ptr()),
                    kTorchThreads);
  const Tensor weights = project_weights(gram, order);
  cpu::project_combine(list.view(), weights.size(0),
                       static_cast<const double*>(weights.const_data_ptr()),
                       mutable_data_of(out).data(), kTorchThreads);
}

}  // namespace
}  // namespace fastforget

STABLE_TORCH_LIBRARY_IMPL(fastforget, CPU, m) {
  m.impl("project", TORCH_BOX(&fastforget::project));
  m.impl("project_gram", TORCH_BOX(&fastforget::project_gram));
  m.impl("project_weights", TORCH_BOX(&fastforget::project_weights));
  m.impl("project_combine", TORCH_BOX(&fastforget::project_combine));
}
