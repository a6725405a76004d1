// perturb, perturb_write and fingerprint on the CPU.
#include "../kernels/perturb.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <thread>

#include "../kernels/cpu/dispatch.h"
#include "../kernels/fingerprint.h"
#include "check.h"
#include "large_pages.h"
#include "score_list.h"

namespace fastforget {
namespace {

using torch::stable::parallel_for;

void check_alike(const Tensors& tensors, const char* name, const Tensors& scores) {
  STD_TORCH_CHECK(tensors.size() == scores.size(), "`", name,
                  "` must have one tensor per tensor of `scores`, got ", tensors.size(), " and ",
                  scores.size());
  for (size_t l = 0; l < tensors.size(); ++l) {
    check_type(tensors[l], name, tensors[0].scalar_type());
    check_contiguous(tensors[l], name);
    STD_TORCH_CHECK(tensors[l].numel() == scores[l].numel(), "`", name,
                    "` must have the shapes of `scores`, got ", shape_text(tensors[l]), " and ",
                    shape_text(scores[l]));
  }
}

// int32 holds the index of an element of any tensor but the very largest.
ScalarType index_type(const Tensors& tensors) {
  constexpr int64_t limit = std::numeric_limits<int32_t>::max();
  const auto large = [](const Tensor& t) { return t.numel() > limit; };
  return std::any_of(tensors.begin(), tensors.end(), large) ? ScalarType::Long : ScalarType::Int;
}

// The update while threads work on it. Chunks differ in how many elements they have selected, so a
// thread, when it is through with one, waits for the chunk before to say where its undo values end.
class Update {
 public:
  Update(const ScoreList& scores, const Tensors& parameters, const Tensors& directions,
         const Tensor& indices, const Tensor& old)
      : scores_(scores),
        dtype_(dtype_of(parameters[0], "parameters")),
        bytes_(parameters[0].element_size()),
        wide_(indices.scalar_type() == ScalarType::Long),
        size_(indices.size(0)),
        indices_(static_cast<char*>(indices.mutable_data_ptr())),
        old_(static_cast<char*>(old.mutable_data_ptr())),
        counts_(scores.chunks.size()) {
    for (const Tensor& t : parameters)
      parameters_.push_back(static_cast<char*>(t.mutable_data_ptr()));
    for (const Tensor& t : directions)
      directions_.push_back(static_cast<const char*>(t.const_data_ptr()));
  }

  void run(Threshold limit, double alpha) {
    share_chunks(scores_.chunks, [&](const auto& take) {
      const Buffer positions((ScoreList::kChunk + SelectKernels::kSlack) *
                             int64_t(sizeof(int32_t)));
      const Buffer old(ScoreList::kChunk * bytes_);
      for (size_t c; (c = take()) < counts_.size();)
        add(c, limit, alpha, static_cast<int32_t*>(positions.get()), old.get());
    });
  }

  // Undoes it: that `k` is wrong shows only after the one pass.
  void restore() const {
    int64_t first = 0;
    for (size_t c = 0; c < counts_.size() && first + counts_[c] <= size_; first += counts_[c++])
      perturb_kernels_cpu().write(
          int(bytes_), int(index_bytes()), parameters_[size_t(scores_.origins[c].tensor)],
          indices_ + first * index_bytes(), old_ + first * bytes_, counts_[c]);
  }

  int64_t total() const { return total_; }
  const std::vector<int64_t>& counts() const { return counts_; }  // per chunk

 private:
  int64_t index_bytes() const { return wide_ ? 8 : 4; }

  void add(size_t c, Threshold limit, double alpha, int32_t* positions, void* old) {
    const auto [tensor, offset] = scores_.origins[c];
    const DType step = value_type(scores_.dtype);
    char* parameters = parameters_[size_t(tensor)] + offset * bytes_;
    const char* directions = directions_[size_t(tensor)] + offset * (key_bits(step) / 8);
    const int64_t count = cpu::select_kernels().positions(scores_.dtype, scores_.chunks[c],
                                                          limit.key, limit.cut, positions);
    perturb_kernels_cpu().perturb(dtype_, step, parameters, directions, positions, count, alpha,
                                  old);
    const int64_t first = place(c, count);
    if (first + count > size_)
      return perturb_kernels_cpu().write(int(bytes_), 4, parameters, positions, old, count);
    if (wide_)
      std::transform(positions, positions + count, reinterpret_cast<int64_t*>(indices_) + first,
                     [offset](int32_t i) { return offset + i; });
    else
      std::transform(positions, positions + count, reinterpret_cast<int32_t*>(indices_) + first,
                     [offset](int32_t i) { return static_cast<int32_t>(offset) + i; });
    std::memcpy(old_ + first * bytes_, old, size_t(count * bytes_));
  }

  // Where the elements of chunk c begin among all that are selected.
  int64_t place(size_t c, int64_t count) {
    while (turn_.load(std::memory_order_acquire) != c) std::this_thread::yield();
    const int64_t first = total_;
    total_ += count;
    counts_[c] = count;
    turn_.store(c + 1, std::memory_order_release);
    return first;
  }

  const ScoreList& scores_;
  const DType dtype_;
  const int64_t bytes_;
  const bool wide_;
  const int64_t size_;
  char *const indices_, *const old_;
  std::vector<char*> parameters_;
  std::vector<const char*> directions_;
  std::vector<int64_t> counts_;
  std::atomic<size_t> turn_{0};
  int64_t total_ = 0;
};

std::tuple<Tensor, Tensor, Tensor> perturb(const Tensors& parameters, const Tensors& directions,
                                           const Tensors& tensors, const Tensor& threshold,
                                           const Tensor& cut, int64_t k, double alpha) {
  const ScoreList scores(tensors);
  const Threshold limit(scores, threshold, cut);
  check_alike(parameters, "parameters", tensors);
  check_alike(directions, "directions", tensors);
  check_type(directions[0], "directions", sum_type(scores.dtype));
  dtype_of(parameters[0], "parameters");
  STD_TORCH_CHECK(k >= 0 && k <= scores.total, "`k` must lie in [0, ", scores.total, "], got ", k);
  Tensor indices = torch::stable::new_empty(cut, std::vector<int64_t>{k}, index_type(parameters));
  Tensor old = torch::stable::new_empty(parameters[0], std::vector<int64_t>{k});
  use_large_pages(indices);
  use_large_pages(old);
  Tensor counts =
      torch::stable::new_zeros(cut, std::vector<int64_t>{static_cast<int64_t>(tensors.size())});
  Update update(scores, parameters, directions, indices, old);
  update.run(limit, alpha);
  if (update.total() != k) update.restore();
  STD_TORCH_CHECK(update.total() == k, "`k` must be the number of selected elements, ",
                  update.total(), ", got ", k);
  int64_t* per_tensor = static_cast<int64_t*>(counts.mutable_data_ptr());
  for (size_t c = 0; c < scores.chunks.size(); ++c)
    per_tensor[scores.origins[c].tensor] += update.counts()[c];
  return {indices, old, counts};
}

// Everything that could be wrong with a write, before anything is written.
template <class Index>
void check_write(const Tensors& parameters, const Tensor& indices, const int64_t* counts,
                 ScalarType type) {
  const Index* at = static_cast<const Index*>(indices.const_data_ptr());
  int64_t left = indices.size(0);
  for (size_t l = 0; l < parameters.size(); ++l) {
    check_type(parameters[l], "parameters", type);
    check_contiguous(parameters[l], "parameters");
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
  check_dim(indices, "indices", 1);
  const bool wide = indices.scalar_type() == ScalarType::Long;
  STD_TORCH_CHECK(wide || indices.scalar_type() == ScalarType::Int,
                  "`indices` must be Int or Long, got ",
                  torch::headeronly::toString(indices.scalar_type()));
  check_contiguous(indices, "indices");
  check_dim(counts, "counts", 1);
  check_type(counts, "counts", ScalarType::Long);
  check_contiguous(counts, "counts");
  check_size(counts, "counts", 0, static_cast<int64_t>(parameters.size()));
  check_dim(values, "values", 1);
  check_contiguous(values, "values");
  check_size(values, "values", 0, indices.size(0));
  dtype_of(values, "values");
  const int64_t* count = static_cast<const int64_t*>(counts.const_data_ptr());
  wide ? check_write<int64_t>(parameters, indices, count, values.scalar_type())
       : check_write<int32_t>(parameters, indices, count, values.scalar_type());
  const int64_t bytes = values.element_size(), index_bytes = indices.element_size();
  const char* at = static_cast<const char*>(indices.const_data_ptr());
  const char* from = static_cast<const char*>(values.const_data_ptr());
  for (size_t l = 0; l < parameters.size(); ++l) {
    perturb_kernels_cpu().write(int(bytes), int(index_bytes), parameters[l].mutable_data_ptr(), at,
                                from, count[l]);
    at += count[l] * index_bytes;
    from += count[l] * bytes;
  }
}

Tensor fingerprint(const Tensors& tensors) {
  STD_TORCH_CHECK(!tensors.empty(), "`tensors` must not be empty");
  Tensor result = torch::stable::new_empty(
      tensors[0], std::vector<int64_t>{static_cast<int64_t>(tensors.size()), 2}, ScalarType::Long);
  uint64_t* out = static_cast<uint64_t*>(result.mutable_data_ptr());
  constexpr int64_t kChunk = 1 << 18;
  for (const Tensor& t : tensors) {
    check_contiguous(t, "tensors");
    const int size = static_cast<int>(t.element_size());
    const int64_t chunks = (t.numel() + kChunk - 1) / kChunk;
    const void* data = t.const_data_ptr();
    std::vector<Fingerprint> parts(static_cast<size_t>(chunks));
    parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c)
        parts[size_t(c)] =
            fingerprint_cpu(data, size, c * kChunk, std::min(t.numel(), (c + 1) * kChunk));
    });
    Fingerprint sum;
    for (const Fingerprint& part : parts) sum.first += part.first, sum.second += part.second;
    *out++ = sum.first;
    *out++ = sum.second;
  }
  return result;
}

}  // namespace
}  // namespace fastforget

STABLE_TORCH_LIBRARY_IMPL(fastforget, CPU, m) {
  m.impl("perturb", TORCH_BOX(&fastforget::perturb));
  m.impl("perturb_write", TORCH_BOX(&fastforget::perturb_write));
  m.impl("fingerprint", TORCH_BOX(&fastforget::fingerprint));
}
