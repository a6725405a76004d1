// What the projection operators ask of their arguments, on any device.
#pragma once

#include <algorithm>

#include "../kernels/project.h"
#include "check.h"

namespace fastforget {

inline void check_like(const Tensor& t, const char* name, const Tensor& like) {
  check_type(t, name, like.scalar_type());
  check_contiguous(t, name);
  const auto sizes = t.sizes(), wanted = like.sizes();
  STD_TORCH_CHECK(std::equal(sizes.begin(), sizes.end(), wanted.begin(), wanted.end()), "`", name,
                  "` must have the shapes of the first task's, got ", shape_text(t), " and ",
                  shape_text(like));
}

// Gradients of `tasks` tasks with respect to the same tensors, task by task; returns how many.
inline int64_t check_tasks(const Tensors& grads, int64_t tasks) {
  STD_TORCH_CHECK(!grads.empty(), "`grads` must not be empty");
  const int64_t count = static_cast<int64_t>(grads.size());
  STD_TORCH_CHECK(tasks >= 1 && count % tasks == 0,
                  "`grads` must have the same number of tensors for each of ", tasks,
                  " tasks, got ", count);
  const int64_t L = count / tasks;
  for (int64_t l = 0; l < L; ++l) {
    const Tensor& like = grads[size_t(l)];
    dtype_of(like, "grads");
    for (int64_t k = 0; k < tasks; ++k) check_like(grads[size_t(k * L + l)], "grads", like);
  }
  return L;
}

inline void check_weights(const Tensor& gram, const Tensor& order) {
  check_dim(gram, "gram", 3);
  check_type(gram, "gram", ScalarType::Double);
  check_contiguous(gram, "gram");
  const int64_t K = gram.size(1);
  check_size(gram, "gram", 2, K);
  check_dim(order, "order", 2);
  check_type(order, "order", ScalarType::Long);
  check_contiguous(order, "order");
  check_size(order, "order", 0, K);
}

// The memory of a tensor.
struct MemoryRange {
  explicit MemoryRange(const Tensor& t)
      : begin(static_cast<const char*>(t.const_data_ptr())),
        end(begin + t.numel() * t.element_size()) {}
  bool overlaps(const MemoryRange& other) const { return begin < other.end && other.begin < end; }
  bool operator<(const MemoryRange& other) const { return begin < other.begin; }
  const char *begin, *end;
};

// A tensor of `out` may be the gradient at its own place in the list, for each element is read
// before it is written. It must share memory with nothing else of the call.
inline void check_overlap(const Tensors& grads, const Tensors& out) {
  std::vector<MemoryRange> written;
  for (const Tensor& t : out)
    if (t.numel() > 0) written.emplace_back(t);
  std::sort(written.begin(), written.end());
  for (size_t l = 1; l < written.size(); ++l)
    STD_TORCH_CHECK(!written[l].overlaps(written[l - 1]),
                    "`out` must hold tensors with memory of their own, got two that share some");
  for (size_t i = 0; i < grads.size(); ++i) {
    const MemoryRange read(grads[i]), own(out[i % out.size()]);
    if (read.begin == read.end || read.begin == own.begin) continue;
    const auto next = std::lower_bound(written.begin(), written.end(), read);
    const bool clear = (next == written.end() || !next->overlaps(read)) &&
                       (next == written.begin() || !std::prev(next)->overlaps(read));
    STD_TORCH_CHECK(clear,
                    "`out` must share memory only with gradients of the same place, got one "
                    "that overlaps tensor ",
                    i % out.size(), " of task ", i / out.size());
  }
}

inline void check_out(const Tensors& grads, int64_t L, const Tensors& out) {
  STD_TORCH_CHECK(static_cast<int64_t>(out.size()) == L,
                  "`out` must have one tensor per tensor of a task, got ", out.size(), " and ", L);
  for (size_t l = 0; l < out.size(); ++l) check_like(out[l], "out", grads[l]);
  check_overlap(grads, out);
}

inline void check_combine(const Tensors& grads, const Tensor& weights, const Tensors& out) {
  check_dim(weights, "weights", 2);
  check_type(weights, "weights", ScalarType::Double);
  check_contiguous(weights, "weights");
  const int64_t L = check_tasks(grads, weights.size(1)), S = weights.size(0);
  STD_TORCH_CHECK(S == 1 || S == L, "`weights` must have size 1 or ", L,
                  " in dimension 0, got shape ", shape_text(weights));
  check_out(grads, L, out);
}

// Checked gradients, and the arrays that the kernels' view of them points to.
class GradList {
 public:
  GradList(const Tensors& grads, int64_t tasks) : K_(tasks), L_(check_tasks(grads, tasks)) {
    for (int64_t l = 0; l < L_; ++l) {
      dtypes_.push_back(dtype_of(grads[size_t(l)], "grads"));
      sizes_.push_back(grads[size_t(l)].numel());
      for (int64_t k = 0; k < K_; ++k) data_.push_back(grads[size_t(k * L_ + l)].const_data_ptr());
    }
  }

  GradTensors view() const { return {K_, L_, dtypes_.data(), sizes_.data(), data_.data()}; }

 private:
  int64_t K_, L_;
  std::vector<DType> dtypes_;
  std::vector<int64_t> sizes_;
  std::vector<const void*> data_;
};

// An uninitialised Gram matrix [S, K, K] of all tensors (S = 1), or of each (S = L).
inline Tensor new_gram(const GradTensors& grads, bool per_tensor, const Tensor& like) {
  const int64_t S = per_tensor ? grads.L : 1;
  return torch::stable::new_empty(like, std::vector<int64_t>{S, grads.K, grads.K},
                                  ScalarType::Double);
}

}  // namespace fastforget
