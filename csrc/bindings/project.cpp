// project_gram, project_weights and project_combine on the CPU.
#include "../kernels/project.h"

#include <algorithm>

#include "../kernels/cpu/dispatch.h"
#include "../kernels/weights_from_gram.h"
#include "project_check.h"

namespace fastforget {
namespace {

using torch::stable::parallel_for;

// Chunks per range at least: less work than this costs less than waking another thread.
constexpr int64_t kGrain = 8;

// The gradients of K tasks with respect to the same L tensors, cut into chunks. The chunks are the
// same for any number of threads, and so are the bits of sums over them.
struct GradList {
  static constexpr int64_t kChunk = 1 << 14;

  GradList(const Tensors& grads, int64_t tasks) : K(tasks) {
    L = check_tasks(grads, K);
    for (int64_t l = 0; l < L; ++l)
      for (int64_t k = 0; k < K; ++k) pointers.push_back(grads[size_t(k * L + l)].const_data_ptr());
    for (int64_t l = 0; l < L; ++l) {
      const Tensor& like = grads[size_t(l)];
      const DType dtype = dtype_of(like, "grads");
      for (int64_t offset = 0; offset < like.numel(); offset += kChunk) {
        chunks.push_back(
            {dtype, &pointers[size_t(l * K)], offset, std::min(kChunk, like.numel() - offset)});
        tensors.push_back(l);
      }
    }
  }

  int64_t K, L;
  std::vector<const void*> pointers;  // [L, K]
  std::vector<GradChunk> chunks;
  std::vector<int64_t> tensors;  // of each chunk
};

Tensor project_gram(const Tensors& grads, int64_t tasks, bool per_tensor) {
  const GradList list(grads, tasks);
  const int64_t K = list.K, count = static_cast<int64_t>(list.chunks.size());
  std::vector<double> parts(static_cast<size_t>(count * K * K));
  parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c)
      cpu::project_kernels().gram(list.chunks[size_t(c)], K, &parts[size_t(c * K * K)]);
  });
  Tensor result = torch::stable::new_zeros(
      grads[0], std::vector<int64_t>{per_tensor ? list.L : 1, K, K}, ScalarType::Double);
  double* gram = static_cast<double*>(result.mutable_data_ptr());
  for (int64_t c = 0; c < count; ++c) {
    double* to = gram + (per_tensor ? list.tensors[size_t(c)] * K * K : 0);
    for (int64_t i = 0; i < K * K; ++i) to[i] += parts[size_t(c * K * K + i)];
  }
  for (double* matrix = gram; matrix < gram + result.numel(); matrix += K * K)
    for (int64_t i = 0; i < K; ++i)
      for (int64_t j = 0; j < i; ++j) matrix[i * K + j] = matrix[j * K + i];
  return result;
}

Tensor project_weights(const Tensor& gram, const Tensor& order) {
  check_weights(gram, order);
  const int64_t S = gram.size(0), K = gram.size(1);
  const double* matrices = static_cast<const double*>(gram.const_data_ptr());
  const int64_t* steps = static_cast<const int64_t*>(order.const_data_ptr());
  for (int64_t i = 0; i < order.numel(); ++i)
    STD_TORCH_CHECK(steps[i] < K, "`order` must be less than ", K, ", got ", steps[i]);
  Tensor result = torch::stable::new_empty(gram, std::vector<int64_t>{S, K});
  double* weights = static_cast<double*>(result.mutable_data_ptr());
  std::vector<double> current(static_cast<size_t>(K));
  for (int64_t s = 0; s < S; ++s)
    weights_from_gram(matrices + s * K * K, steps, K, order.size(1), current.data(),
                      weights + s * K);
  return result;
}

void project_combine(const Tensors& grads, const Tensor& weights, const Tensors& out) {
  check_combine(grads, weights, out);
  const int64_t S = weights.size(0);
  const GradList list(grads, weights.size(1));
  const int64_t K = list.K;
  std::vector<void*> to;
  for (const Tensor& t : out) to.push_back(t.mutable_data_ptr());
  const double* rows = static_cast<const double*>(weights.const_data_ptr());
  // Backwards: project_gram has just read the last chunks of a range, some are still in a cache.
  parallel_for(0, static_cast<int64_t>(list.chunks.size()), kGrain,
               [&](int64_t begin, int64_t end) {
                 for (int64_t c = end - 1; c >= begin; --c) {
                   const int64_t l = list.tensors[size_t(c)];
                   cpu::project_kernels().combine(list.chunks[size_t(c)], K,
                                                  rows + (S == 1 ? 0 : l * K), to[size_t(l)]);
                 }
               });
}

}  // namespace
}  // namespace fastforget

STABLE_TORCH_LIBRARY_IMPL(fastforget, CPU, m) {
  m.impl("project_gram", TORCH_BOX(&fastforget::project_gram));
  m.impl("project_weights", TORCH_BOX(&fastforget::project_weights));
  m.impl("project_combine", TORCH_BOX(&fastforget::project_combine));
}
