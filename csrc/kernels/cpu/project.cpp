// Both passes of a projection go through all gradients in chunks, some chunks at a time on each
// thread. The chunks are the same for any number of threads, and so are the bits of sums over them.
#include "project.h"

#include <algorithm>
#include <vector>

#include "../weights_from_gram.h"
#include "dispatch.h"

namespace fastforget::cpu {
namespace {

// Chunks that a thread takes at least: less work than this costs less than waking another thread.
constexpr int64_t kGrain = 8;

struct GradList {
  static constexpr int64_t kChunk = 1 << 14;  // elements

  explicit GradList(const GradTensors& g) {
    for (int64_t l = 0; l < g.L; ++l) {
      for (int64_t offset = 0; offset < g.sizes[l]; offset += kChunk) {
        chunks.push_back(
            {g.dtypes[l], g.grads + l * g.K, offset, std::min(kChunk, g.sizes[l] - offset)});
        tensors.push_back(l);
      }
    }
  }

  int64_t count() const { return static_cast<int64_t>(chunks.size()); }

  std::vector<GradChunk> chunks;
  std::vector<int64_t> tensors;  // of each chunk
};

}  // namespace

void project_gram(const GradTensors& grads, bool per_tensor, double* gram,
                  const Parallel& parallel) {
  const GradList list(grads);
  const int64_t K = grads.K, S = per_tensor ? grads.L : 1;
  std::vector<double> parts(static_cast<size_t>(list.count() * K * K));
  parallel(list.count(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c)
      project_kernels().gram(list.chunks[size_t(c)], K, &parts[size_t(c * K * K)]);
  });
  std::fill_n(gram, S * K * K, 0.0);
  for (int64_t c = 0; c < list.count(); ++c) {
    double* const to = gram + (per_tensor ? list.tensors[size_t(c)] * K * K : 0);
    for (int64_t i = 0; i < K * K; ++i) to[i] += parts[size_t(c * K * K + i)];
  }
  for (double* matrix = gram; matrix < gram + S * K * K; matrix += K * K)
    for (int64_t i = 0; i < K; ++i)
      for (int64_t j = 0; j < i; ++j) matrix[i * K + j] = matrix[j * K + i];
}

void project_weights(const double* gram, const int64_t* order, int64_t S, int64_t K, int64_t M,
                     double* weights) {
  std::vector<double> current(static_cast<size_t>(K));
  for (int64_t s = 0; s < S; ++s)
    weights_from_gram(gram + s * K * K, order, K, M, current.data(), weights + s * K);
}

void project_combine(const GradTensors& grads, int64_t S, const double* weights, void* const* out,
                     const Parallel& parallel) {
  const GradList list(grads);
  // Backwards: project_gram has just read the last chunks of a range, some are still in a cache.
  parallel(list.count(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t c = end - 1; c >= begin; --c) {
      const int64_t l = list.tensors[size_t(c)];
      project_kernels().combine(list.chunks[size_t(c)], grads.K,
                                weights + (S == 1 ? 0 : l * grads.K), out[l]);
    }
  });
}

}  // namespace fastforget::cpu
