// select and select_mask on the CPU.
#include "../kernels/select.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>

#include "check.h"
#include "score_list.h"

namespace fastforget {
namespace {

using torch::stable::parallel_for;

struct Bracket {
  uint64_t low, high;
};

uint64_t infinity(DType dtype, int sign) {
  const float single = float(sign) * std::numeric_limits<float>::infinity();
  const double twice = single;
  return dtype == DType::f64 ? key_of(dtype, &twice) : key_of(dtype, &single);
}

// Keys around the k-th largest of a fixed-stride sample, five standard deviations to each side;
// where that is beyond the sample's largest or smallest, everything on that side.
Bracket guess(const ScoreList& scores, int64_t k) {
  constexpr int64_t kSamples = 1 << 16;
  const int64_t stride = std::max<int64_t>(1, scores.total / kSamples);
  std::vector<uint64_t> keys(static_cast<size_t>(scores.total / stride + 1));
  int64_t count = 0;
  for (const ScoreChunk& chunk : scores.chunks) {
    const int64_t start = (stride - chunk.position % stride) % stride;
    count += select_kernels_cpu().sample(scores.dtype, chunk, start, stride, keys.data() + count);
  }
  keys.resize(static_cast<size_t>(count));
  const double share = double(k) / double(scores.total), m = double(count);
  const double middle = share * m,
               margin = stride == 1 ? 0 : 5 * std::sqrt(m * share * (1 - share)) + 8;
  const auto rank = [&](double position) {
    if (position < 0 || position > m - 1) return infinity(scores.dtype, position < 0 ? 1 : -1);
    const auto at = keys.begin() + int64_t(position);
    std::nth_element(keys.begin(), at, keys.end(), std::greater<>());
    return *at;
  };
  const uint64_t high = rank(middle - margin - 1), low = rank(middle + margin);
  return {low, high};
}

// Exact threshold key by counting 16 bits at a time; used when the sample misled `guess`.
uint64_t radix(const ScoreList& scores, int64_t k) {
  uint64_t prefix = 0;
  for (int shift = key_bits(scores.dtype) - 16; shift >= 0; shift -= 16) {
    std::vector<int64_t> histogram(1 << 16);
    for (const ScoreChunk& chunk : scores.chunks)
      select_kernels_cpu().histogram(scores.dtype, chunk, prefix, shift, histogram.data());
    uint64_t digit = 0xffff;
    while (k > histogram[digit]) k -= histogram[digit--];
    prefix |= digit << shift;
  }
  return prefix;
}

struct Scan {
  std::vector<ScanCounts> counts;             // per chunk
  std::vector<std::vector<uint64_t>> inside;  // per chunk
  ScanCounts total;
};

Scan scan(const ScoreList& scores, Bracket bracket) {
  const int64_t chunks = static_cast<int64_t>(scores.chunks.size());
  Scan result{std::vector<ScanCounts>(scores.chunks.size()),
              std::vector<std::vector<uint64_t>>(scores.chunks.size()),
              {}};
  parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    const Buffer collected(ScoreList::kChunk * int64_t(sizeof(uint64_t)));
    uint64_t* keys = static_cast<uint64_t*>(collected.get());
    for (int64_t c = begin; c < end; ++c) {
      ScanCounts& counts = result.counts[size_t(c)];
      counts = select_kernels_cpu().scan(scores.dtype, scores.chunks[size_t(c)], bracket.low,
                                         bracket.high, keys);
      result.inside[size_t(c)].assign(keys, keys + counts.inside);
    }
  });
  for (const ScanCounts& counts : result.counts) {
    result.total.above += counts.above;
    result.total.at_high += counts.at_high;
    result.total.at_low += counts.at_low;
    result.total.inside += counts.inside;
    result.total.nan += counts.nan;
  }
  return result;
}

// The key of the k-th largest and how many elements equal to it belong to the k; false: not in the
// bracket.
bool resolve(const Scan& scan, Bracket bracket, int64_t k, uint64_t& key, int64_t& ties) {
  int64_t rank = k - scan.total.above;
  if (rank < 1) return false;
  key = bracket.high, ties = rank;
  if (rank <= scan.total.at_high) return true;
  rank -= scan.total.at_high;
  if (rank > scan.total.inside) {
    key = bracket.low, ties = rank - scan.total.inside;
    return ties <= scan.total.at_low;
  }
  std::vector<uint64_t> keys;
  keys.reserve(size_t(scan.total.inside));
  for (const auto& chunk : scan.inside) keys.insert(keys.end(), chunk.begin(), chunk.end());
  std::nth_element(keys.begin(), keys.begin() + rank - 1, keys.end(), std::greater<>());
  key = keys[size_t(rank - 1)];
  ties = rank - std::count_if(keys.begin(), keys.end(), [&](uint64_t x) { return x > key; });
  return true;
}

// One past the position of the `ties`-th element equal to `key`, in (tensor, element) order.
int64_t find_cut(const ScoreList& scores, const Scan& scan, Bracket bracket, uint64_t key,
                 int64_t ties) {
  for (size_t c = 0; c < scores.chunks.size(); ++c) {
    const int64_t equal = key == bracket.high ? scan.counts[c].at_high
                          : key == bracket.low
                              ? scan.counts[c].at_low
                              : std::count(scan.inside[c].begin(), scan.inside[c].end(), key);
    if (ties <= equal)
      return scores.chunks[c].position +
             select_kernels_cpu().find(scores.dtype, scores.chunks[c], key, ties - 1) + 1;
    ties -= equal;
  }
  return scores.total;
}

std::tuple<Tensor, Tensor> select(const Tensors& tensors, int64_t k) {
  const ScoreList scores(tensors);
  STD_TORCH_CHECK(k >= 1 && k <= scores.total, "`k` must lie in [1, ", scores.total, "], got ", k);
  Bracket bracket = guess(scores, k);
  Scan found = scan(scores, bracket);
  STD_TORCH_CHECK(found.total.nan == 0, "`scores` must not be NaN, got ", found.total.nan,
                  " NaN elements");
  uint64_t key = 0;
  int64_t ties = 0;
  if (!resolve(found, bracket, k, key, ties)) {
    const uint64_t exact = radix(scores, k);
    bracket = {exact, exact};
    found = scan(scores, bracket);
    resolve(found, bracket, k, key, ties);
  }
  Tensor threshold = torch::stable::new_empty(tensors[0], std::vector<int64_t>{});
  Tensor cut = torch::stable::new_empty(tensors[0], std::vector<int64_t>{}, ScalarType::Long);
  score_of(scores.dtype, key, threshold.mutable_data_ptr());
  *static_cast<int64_t*>(cut.mutable_data_ptr()) = find_cut(scores, found, bracket, key, ties);
  return {threshold, cut};
}

Tensors select_mask(const Tensors& tensors, const Tensor& threshold, const Tensor& cut) {
  const ScoreList scores(tensors);
  const Threshold limit(scores, threshold, cut);
  Tensors masks;
  std::vector<bool*> data;
  for (const Tensor& t : tensors) {
    masks.push_back(torch::stable::new_empty(
        t, std::vector<int64_t>(t.sizes().begin(), t.sizes().end()), ScalarType::Bool));
    data.push_back(static_cast<bool*>(masks.back().mutable_data_ptr()));
  }
  parallel_for(0, static_cast<int64_t>(scores.chunks.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const ScoreList::Origin& origin = scores.origins[size_t(c)];
      select_kernels_cpu().mask(scores.dtype, scores.chunks[size_t(c)], limit.key, limit.cut,
                                data[size_t(origin.tensor)] + origin.offset);
    }
  });
  return masks;
}

}  // namespace
}  // namespace fastforget

STABLE_TORCH_LIBRARY_IMPL(fastforget, CPU, m) {
  m.impl("select", TORCH_BOX(&fastforget::select));
  m.impl("select_mask", TORCH_BOX(&fastforget::select_mask));
}
