// perturb, perturb_undo, perturb_write and fingerprint on the CPU.
#include "../kernels/perturb.h"

#include <algorithm>

#include "../kernels/fingerprint.h"
#include "bit_mask.h"
#include "check.h"
#include "large_pages.h"
#include "perturb_check.h"

namespace fastforget {
namespace {

using torch::stable::parallel_for;

std::vector<char*> data_of(const Tensors& tensors) {
  std::vector<char*> data;
  for (const Tensor& t : tensors) data.push_back(static_cast<char*>(t.mutable_data_ptr()));
  return data;
}

Tensor perturb(const Tensors& parameters, const Tensors& directions, const Tensor& mask, int64_t k,
               double alpha) {
  const DType dtype = check_parameters(parameters), step = check_directions(directions, parameters);
  const BitMask bits(mask, parameters);
  check_ones(bits, k);
  Tensor old = torch::stable::new_empty(parameters[0], std::vector<int64_t>{k});
  use_large_pages(old);
  const int64_t bytes = old.element_size(), step_bytes = directions[0].element_size();
  char* const to = static_cast<char*>(old.mutable_data_ptr());
  const std::vector<char*> data = data_of(parameters);
  std::vector<const char*> steps;
  for (const Tensor& t : directions) steps.push_back(static_cast<const char*>(t.const_data_ptr()));
  for_chunks(bits.chunks.size(), [&](size_t c) {
    const Chunk& chunk = bits.chunks[c];
    perturb_kernels_cpu().perturb(dtype, step, data[size_t(chunk.tensor)] + chunk.offset * bytes,
                                  steps[size_t(chunk.tensor)] + chunk.offset * step_bytes,
                                  bits.of(chunk), chunk.words(), alpha, to + bits.ranks[c] * bytes);
  });
  return old;
}

void perturb_undo(const Tensors& parameters, const Tensor& mask, const Tensor& old) {
  check_parameters(parameters);
  check_old(old, parameters);
  const BitMask bits(mask, parameters);
  check_size(old, "old", 0, bits.ones());
  const int64_t bytes = old.element_size();
  const char* const from = static_cast<const char*>(old.const_data_ptr());
  const std::vector<char*> data = data_of(parameters);
  for_chunks(bits.chunks.size(), [&](size_t c) {
    const Chunk& chunk = bits.chunks[c];
    perturb_kernels_cpu().undo(int(bytes), data[size_t(chunk.tensor)] + chunk.offset * bytes,
                               bits.of(chunk), chunk.words(), from + bits.ranks[c] * bytes);
  });
}

// What indices and counts hold, before anything is written.
template <class Index>
void check_places(const Tensors& parameters, const Tensor& indices, const int64_t* counts) {
  const Index* at = static_cast<const Index*>(indices.const_data_ptr());
  int64_t left = indices.size(0);
  for (size_t l = 0; l < parameters.size(); ++l) {
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
  check_write(parameters, indices, counts, values);
  const int64_t* count = static_cast<const int64_t*>(counts.const_data_ptr());
  indices.scalar_type() == ScalarType::Long ? check_places<int64_t>(parameters, indices, count)
                                            : check_places<int32_t>(parameters, indices, count);
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
  m.impl("perturb_undo", TORCH_BOX(&fastforget::perturb_undo));
  m.impl("perturb_write", TORCH_BOX(&fastforget::perturb_write));
  m.impl("fingerprint", TORCH_BOX(&fastforget::fingerprint));
}
