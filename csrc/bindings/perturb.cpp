// perturb, perturb_write and fingerprint on the CPU.
#include "../kernels/perturb.h"

#include <algorithm>
#include <cstring>

#include "../kernels/fingerprint.h"
#include "check.h"
#include "score_list.h"

namespace fastforget {
namespace {

using torch::stable::parallel_for;

int64_t element_size(const Tensor& t, const char* name) {
  switch (dtype_of(t, name)) {
    case DType::f64:
      return 8;
    case DType::f32:
      return 4;
    default:
      return 2;
  }
}

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

// What one range of chunks selected; ranges are joined in order, so the result does not depend on
// threads.
struct Selected {
  int64_t first_chunk;
  std::vector<int64_t> indices;
  std::vector<char> old;
  std::vector<int64_t> counts;  // per chunk of the range
};

// Undoes what ranges changed: that `k` is wrong shows only after the one pass.
void restore(const std::vector<Selected>& ranges, const ScoreList& scores,
             const std::vector<char*>& data, int64_t bytes) {
  for (size_t first = 0; first < ranges.size(); ++first) {
    const int64_t* indices = ranges[first].indices.data();
    const char* old = ranges[first].old.data();
    for (size_t c = 0; c < ranges[first].counts.size(); ++c) {
      const int64_t count = ranges[first].counts[c];
      perturb_kernels_cpu().write(static_cast<int>(bytes),
                                  data[size_t(scores.origins[first + c].tensor)], indices, old,
                                  count);
      indices += count;
      old += count * bytes;
    }
  }
}

std::tuple<Tensor, Tensor, Tensor> perturb(const Tensors& parameters, const Tensors& directions,
                                           const Tensors& tensors, const Tensor& threshold,
                                           const Tensor& cut, int64_t k, double alpha) {
  const ScoreList scores(tensors);
  const Threshold limit(scores, threshold, cut);
  check_alike(parameters, "parameters", tensors);
  check_alike(directions, "directions", tensors);
  check_type(directions[0], "directions", tensors[0].scalar_type());
  const DType dtype = dtype_of(parameters[0], "parameters");
  const int64_t bytes = element_size(parameters[0], "parameters"),
                score_bytes = key_bits(scores.dtype) / 8;
  std::vector<char*> data;
  std::vector<const char*> steps;
  for (size_t l = 0; l < parameters.size(); ++l) {
    data.push_back(static_cast<char*>(parameters[l].mutable_data_ptr()));
    steps.push_back(static_cast<const char*>(directions[l].const_data_ptr()));
  }

  const int64_t chunks = static_cast<int64_t>(scores.chunks.size());
  std::vector<Selected> ranges(static_cast<size_t>(chunks));  // a range stores at its first chunk
  parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    Selected& range = ranges[size_t(begin)];
    std::vector<int64_t> indices(ScoreList::kChunk);
    std::vector<char> old(size_t(ScoreList::kChunk * bytes));
    for (int64_t c = begin; c < end; ++c) {
      const ScoreList::Origin& origin = scores.origins[size_t(c)];
      const PerturbChunk chunk{data[size_t(origin.tensor)] + origin.offset * bytes,
                               steps[size_t(origin.tensor)] + origin.offset * score_bytes,
                               scores.chunks[size_t(c)], origin.offset};
      const int64_t count = perturb_kernels_cpu().perturb(
          dtype, scores.dtype, chunk, limit.key, limit.cut, alpha, indices.data(), old.data());
      range.indices.insert(range.indices.end(), indices.begin(), indices.begin() + count);
      range.old.insert(range.old.end(), old.begin(), old.begin() + count * bytes);
      range.counts.push_back(count);
    }
  });

  const std::vector<int64_t> lists{static_cast<int64_t>(tensors.size())};
  Tensor indices = torch::stable::new_empty(cut, std::vector<int64_t>{k});
  Tensor old = torch::stable::new_empty(parameters[0], std::vector<int64_t>{k});
  Tensor counts = torch::stable::new_zeros(cut, lists);
  int64_t total = 0;
  for (const Selected& range : ranges) total += static_cast<int64_t>(range.indices.size());
  if (total != k) restore(ranges, scores, data, bytes);
  STD_TORCH_CHECK(total == k, "`k` must be the number of selected elements, ", total, ", got ", k);
  int64_t* to_indices = static_cast<int64_t*>(indices.mutable_data_ptr());
  char* to_old = static_cast<char*>(old.mutable_data_ptr());
  int64_t* to_counts = static_cast<int64_t*>(counts.mutable_data_ptr());
  for (size_t first = 0; first < ranges.size(); ++first) {
    const Selected& range = ranges[first];
    to_indices = std::copy(range.indices.begin(), range.indices.end(), to_indices);
    to_old = std::copy(range.old.begin(), range.old.end(), to_old);
    for (size_t c = 0; c < range.counts.size(); ++c)
      to_counts[scores.origins[first + c].tensor] += range.counts[c];
  }
  return {indices, old, counts};
}

void perturb_write(const Tensors& parameters, const Tensor& indices, const Tensor& counts,
                   const Tensor& values) {
  check_dim(indices, "indices", 1);
  check_type(indices, "indices", ScalarType::Long);
  check_contiguous(indices, "indices");
  check_dim(counts, "counts", 1);
  check_type(counts, "counts", ScalarType::Long);
  check_contiguous(counts, "counts");
  check_size(counts, "counts", 0, static_cast<int64_t>(parameters.size()));
  check_dim(values, "values", 1);
  check_contiguous(values, "values");
  check_size(values, "values", 0, indices.size(0));
  const int64_t* at = static_cast<const int64_t*>(indices.const_data_ptr());
  const int64_t* count = static_cast<const int64_t*>(counts.const_data_ptr());
  const int64_t bytes = element_size(values, "values");
  int64_t total = 0;
  // Everything is checked before anything is written.
  for (size_t l = 0; l < parameters.size(); ++l) {
    check_type(parameters[l], "parameters", values.scalar_type());
    check_contiguous(parameters[l], "parameters");
    STD_TORCH_CHECK(count[l] >= 0 && total + count[l] <= indices.size(0),
                    "`counts` must add up to ", indices.size(0));
    for (int64_t i = total; i < total + count[l]; ++i)
      STD_TORCH_CHECK(at[i] >= 0 && at[i] < parameters[l].numel(), "`indices` must lie in [0, ",
                      parameters[l].numel(), "), got ", at[i]);
    total += count[l];
  }
  STD_TORCH_CHECK(total == indices.size(0), "`counts` must add up to ", indices.size(0), ", got ",
                  total);
  const char* from = static_cast<const char*>(values.const_data_ptr());
  for (size_t l = 0; l < parameters.size(); ++l) {
    perturb_kernels_cpu().write(static_cast<int>(bytes), parameters[l].mutable_data_ptr(), at, from,
                                count[l]);
    at += count[l];
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
