// project, project_gram, project_weights and project_combine on CUDA devices.
#include "../../kernels/cuda/project.h"

#include "../project_check.h"
#include "../tensor_list.h"
#include "context.h"

namespace fastforget {
namespace {

using cuda::Context;

Tensor project_gram(const Tensors& grads, int64_t tasks, bool per_tensor) {
  const GradList list(grads, tasks);
  const Context context(grads[0]);
  context.check(grads, "grads");
  Tensor gram = new_gram(list.view(), per_tensor, grads[0]);
  Tensor scratch = Context::scratch(gram, cuda::project_gram_bytes(list.view()));
  Context::run(cuda::project_gram(list.view(), per_tensor,
                                  static_cast<double*>(gram.mutable_data_ptr()),
                                  scratch.mutable_data_ptr(), context.stream()));
  return gram;
}

Tensor project_weights(const Tensor& gram, const Tensor& order) {
  check_weights(gram, order);
  const Context context(gram);
  context.check(order, "order");
  const int64_t S = gram.size(0), K = gram.size(1);
  Tensor weights = torch::stable::new_empty(gram, std::vector<int64_t>{S, K});
  Tensor current = torch::stable::new_empty(gram, std::vector<int64_t>{S, K});
  Context::run(
      cuda::project_weights(static_cast<const double*>(gram.const_data_ptr()),
                            static_cast<const int64_t*>(order.const_data_ptr()), S, K,
                            order.size(1), static_cast<double*>(current.mutable_data_ptr()),
                            static_cast<double*>(weights.mutable_data_ptr()), context.stream()));
  return weights;
}

void project_combine(const Tensors& grads, const Tensor& weights, const Tensors& out) {
  check_combine(grads, weights, out);
  const Context context(weights);
  context.check(grads, "grads");
  context.check(out, "out");
  const GradList list(grads, weights.size(1));
  Context::run(cuda::project_combine(list.view(), weights.size(0),
                                     static_cast<const double*>(weights.const_data_ptr()),
                                     mutable_data_of(out).data(), context.stream()));
}

void project(const Tensors& grads, const Tensor& order, bool per_tensor, const Tensors& out) {
  check_dim(order, "order", 2);
  const GradList list(grads, order.size(0));
  check_out(grads, list.view().L, out);
  const Context context(grads[0]);
  context.check(grads, "grads");
  context.check(out, "out");
  Tensor gram = new_gram(list.view(), per_tensor, grads[0]);
  Tensor scratch = Context::scratch(gram, cuda::project_gram_bytes(list.view()));
  Context::run(cuda::project_gram(list.view(), per_tensor,
                                  static_cast<double*>(gram.mutable_data_ptr()),
                                  scratch.mutable_data_ptr(), context.stream()));
  const Tensor weights = project_weights(gram, order);
  Context::run(cuda::project_combine(list.view(), weights.size(0),
                                     static_cast<const double*>(weights.const_data_ptr()),
                                     mutable_data_of(out).data(), context.stream()));
}

}  // namespace
}  // namespace fastforget

FASTFORGET_REGISTER(FASTFORGET_DEVICE, m) {
  m.impl("project", TORCH_BOX(&fastforget::project));
  m.impl("project_gram", TORCH_BOX(&fastforget::project_gram));
  m.impl("project_weights", TORCH_BOX(&fastforget::project_weights));
  m.impl("project_combine", TORCH_BOX(&fastforget::project_combine));
}
