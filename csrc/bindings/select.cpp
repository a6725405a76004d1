// select on the CPU.
#include "../kernels/select.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>

#include "../kernels/cpu/dispatch.h"
#include "bit_mask.h"
#include "check.h"
#include "large_pages.h"

namespace fastforget {
namespace {

struct ScoreList {
  explicit ScoreList(const Tensors& tensors)
      : dtype(check_scores(tensors)), places(chunks_of(tensors)) {
    chunks.reserve(places.size());
    for (const Chunk& place : places) {
      const Tensor& t = tensors[size_t(place.tensor)];
      const char* data = static_cast<const char*>(t.const_data_ptr());
      chunks.push_back({data + place.offset * int64_t(t.element_size()), place.size, total});
      total += place.size;
    }
  }

  DType dtype;
  int64_t total = 0;
  std::vector<Chunk> places;
  std::vector<ScoreChunk> chunks;
};

uint64_t key_of_value(DType dtype, double value) {
  const float single = static_cast<float>(value);
  return dtype == DType::f64 ? key_of(dtype, &value) : key_of(DType::f32, &single);
}

Bracket everything(DType dtype) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  return {key_of_value(dtype, -infinity), key_of_value(dtype, infinity)};
}

using ScoreChunks = std::vector<ScoreChunk>;

// What one pass over all scores, or over a sample of them, found relative to a bracket. Over all,
// it also writes the mask as far as the bracket decides it.
class Scan {
 public:
  Scan(const ScoreList& scores, Bracket bracket, int64_t stride, uint64_t* mask)
      : bracket_(bracket),
        type_(value_type(scores.dtype)),
        capacity_(std::min(scores.total, std::max(scores.total / 128, kSmall))),
        inside_(capacity_ * element_size()),
        parts_(scores.chunks.size()),
        marks_(mask ? scores.chunks.size() : 0) {
    std::atomic<int64_t> used{0};
    for_chunks(parts_.size(), [&](size_t c) { add(scores, c, stride, mask, used); });
    for (const Part& part : parts_) {
      total_.above += part.counts.above;
      total_.at_high += part.counts.at_high;
      total_.inside += part.counts.inside;
      total_.at_low += part.counts.at_low;
      total_.nan += part.counts.nan;
    }
  }

  // Completes the mask: the bracket holds the threshold. After the last tie at its upper end, what
  // is above that is all there is.
  void decide(const ScoreList& scores, uint64_t threshold, int64_t cut, uint64_t* mask) const {
    for_chunks(parts_.size(), [&](size_t c) {
      const ScoreChunk& chunk = scores.chunks[c];
      if (threshold == bracket_.high && chunk.position >= cut) return;
      cpu::select_kernels().decide(scores.dtype, chunk, threshold, cut, marks_[c].data(),
                                   mask + scores.places[c].word);
    });
  }

  const ScanCounts& total() const { return total_; }
  Bracket bracket() const { return bracket_; }
  bool complete() const { return total_.inside <= capacity_; }

  // All that was collected.
  ScoreChunks inside() const { return {{inside_.get(), total_.inside, 0}}; }

  // How many scores are above this key, which lies in the bracket.
  int64_t above(uint64_t key) const {
    if (key == bracket_.high) return total_.above;
    const int64_t inside = key == bracket_.low ? total_.inside : count(0, total_.inside, key).above;
    return total_.above + total_.at_high + inside;
  }

  // How many scores of a chunk have this key, which lies in the bracket.
  int64_t equal(size_t c, uint64_t key) const {
    const Part& part = parts_[c];
    if (key == bracket_.high) return part.counts.at_high;
    if (key == bracket_.low) return part.counts.at_low;
    return count(part.start, part.counts.inside, key).at_high;
  }

 private:
  static constexpr int64_t kSmall = 1 << 16;

  struct Part {
    ScanCounts counts;
    int64_t start;  // of what the chunk collected
  };

  int64_t element_size() const { return key_bits(type_) / 8; }
  char* at(int64_t i) const { return static_cast<char*>(inside_.get()) + i * element_size(); }

  // Counts relative to one key among `size` of what was collected.
  ScanCounts count(int64_t start, int64_t size, uint64_t key) const {
    return cpu::select_kernels().scan(type_, {at(start), size, 0}, {key, key}, {});
  }

  // What a chunk collects is usually little and is kept aside until its place is known; where it is
  // much, the chunk is scanned again, from the cache.
  void add(const ScoreList& scores, size_t c, int64_t stride, uint64_t* mask,
           std::atomic<int64_t>& used) {
    constexpr int64_t room = 1024;
    double aside[room];
    uint64_t* const words = mask ? mask + scores.places[c].word : nullptr;
    uint64_t* const marks = mask ? marks_[c].data() : nullptr;
    const auto run = [&](void* inside, int64_t size) {
      const SelectKernels& kernels = cpu::select_kernels();
      const ScanResults results{inside, size, words, marks};
      return stride == 1
                 ? kernels.scan(scores.dtype, scores.chunks[c], bracket_, results)
                 : kernels.sample(scores.dtype, scores.chunks[c], stride, bracket_, results);
    };
    Part& part = parts_[c];
    part.counts = run(aside, room);
    const int64_t found = part.counts.inside;
    part.start = used.fetch_add(found);
    if (found == 0 || part.start + found > capacity_) return;
    if (found > room)
      run(at(part.start), found);
    else
      std::memcpy(at(part.start), aside, size_t(found * element_size()));
  }

  const Bracket bracket_;
  const DType type_;
  const int64_t capacity_;
  const Buffer inside_;
  std::vector<Part> parts_;
  std::vector<std::array<uint64_t, Chunk::kSize / SelectKernels::kGroup / 64>> marks_;
  ScanCounts total_;
};

// The `rank`-th largest (from 1) of scores whose keys lie in the bracket, exactly, by counting
// eleven bits at a time below those that the ends have in common.
uint64_t radix(DType dtype, const ScoreChunks& chunks, Bracket bracket, int64_t rank) {
  constexpr int kDigit = 11;
  using Histogram = std::array<int64_t, 1 << kDigit>;
  int left = std::bit_width(bracket.low ^ bracket.high);
  uint64_t key = left == 64 ? 0 : bracket.low >> left << left;
  while (left > 0) {
    const int shift = std::max(left - kDigit, 0);
    Histogram counts{};
    std::mutex mutex;
    share_chunks(chunks.size(), [&](const auto& take) {
      Histogram mine{};
      for (size_t c; (c = take()) < chunks.size();)
        cpu::select_kernels().histogram(dtype, chunks[c], key, left, shift, mine.data());
      const std::lock_guard lock(mutex);
      for (size_t digit = 0; digit < mine.size(); ++digit) counts[digit] += mine[digit];
    });
    uint64_t digit = (uint64_t(1) << (left - shift)) - 1;
    while (rank > counts[digit]) rank -= counts[digit--];
    key |= digit << shift;
    left = shift;
  }
  return key;
}

// The key of the `rank`-th largest; an end of the bracket if it is not inside.
uint64_t ranked(const Scan& scan, const ScoreList& scores, int64_t rank) {
  const ScanCounts& total = scan.total();
  rank -= total.above + total.at_high;
  if (rank <= 0) return scan.bracket().high;
  if (rank > total.inside) return scan.bracket().low;
  return radix(value_type(scores.dtype), scan.inside(), scan.bracket(), rank);
}

bool holds(const Scan& scan, int64_t k) {
  const ScanCounts& total = scan.total();
  return scan.complete() && k > total.above &&
         k <= total.above + total.at_high + total.inside + total.at_low;
}

// Where a sample of one score in `stride` suggests that the k-th largest lies: between `from` and
// `to` standard deviations of its rank in the sample, z * z more for the few at either end.
Bracket suggest(const Scan& sample, const ScoreList& scores, int64_t k, int64_t stride, double from,
                double to) {
  if (!sample.complete()) return sample.bracket();
  const double share = double(k) / double(scores.total), rank = double(k) / double(stride);
  const auto at = [&](double z) {
    const double shifted = rank + z * std::sqrt(rank * (1 - share)) + z * std::abs(z);
    return ranked(sample, scores, static_cast<int64_t>(std::floor(shifted)));
  };
  return {at(to), at(from)};
}

// A scan of all scores whose bracket holds the k-th largest, or that found NaN. A few thousand
// scores narrow the bracket for up to a hundred thousand, and those for the scan, so that it keeps
// less than one score in 128. It misses in one case out of twenty; the next try goes further.
std::unique_ptr<Scan> search(const ScoreList& scores, int64_t k, uint64_t* mask) {
  constexpr int64_t kCoarse = 1 << 12;
  const auto sampled = [&](Bracket bracket, int64_t stride) {
    return std::make_unique<Scan>(scores, bracket, stride, nullptr);
  };
  const auto scanned = [&](Bracket bracket) {
    return std::make_unique<Scan>(scores, bracket, 1, mask);
  };
  if (scores.total < kCoarse) return scanned(everything(scores.dtype));
  int64_t stride = std::max<int64_t>(8, scores.total / kCoarse);
  auto sample = sampled(everything(scores.dtype), stride);
  if (scores.total > 128 * kCoarse) {
    const Bracket bracket = suggest(*sample, scores, k, stride, -4, 4);
    const double share = double(k) / double(scores.total);
    const double size = std::max(4.0 * kCoarse, 5e5 * share * (1 - share));
    if (bracket.low < bracket.high) {
      stride = static_cast<int64_t>(double(scores.total) / size);
      sample = sampled(bracket, stride);
    }
  }
  auto scan = scanned(suggest(*sample, scores, k, stride, -2, 2));
  if (scan->total().nan > 0 || holds(*scan, k)) return scan;
  const bool higher = k <= scan->total().above;
  scan.reset();
  scan = scanned(suggest(*sample, scores, k, stride, higher ? -8 : 2, higher ? -2 : 8));
  if (holds(*scan, k)) return scan;
  scan.reset();
  const uint64_t key = radix(scores.dtype, scores.chunks, everything(scores.dtype), k);
  return scanned({key, key});
}

// One past the position of the last score equal to `key` among the k largest: ties go by (tensor,
// element) order.
int64_t find_cut(const ScoreList& scores, const Scan& scan, uint64_t key, int64_t k) {
  int64_t ties = k - scan.above(key);
  for (size_t c = 0; c < scores.chunks.size(); ++c) {
    const int64_t equal = scan.equal(c, key);
    const ScoreChunk& chunk = scores.chunks[c];
    if (ties <= equal)
      return chunk.position + cpu::select_kernels().find(scores.dtype, chunk, key, ties - 1) + 1;
    ties -= equal;
  }
  return scores.total;
}

std::tuple<Tensor, Tensor> select(const Tensors& tensors, int64_t k) {
  const ScoreList scores(tensors);
  check_k(k, scores.total);
  Tensor mask = torch::stable::new_empty(tensors[0], std::vector<int64_t>{words_of(tensors)},
                                         ScalarType::Long);
  use_large_pages(mask);
  uint64_t* words = static_cast<uint64_t*>(mask.mutable_data_ptr());
  const std::unique_ptr<Scan> scan = search(scores, k, words);
  STD_TORCH_CHECK(scan->total().nan == 0, "`scores` must not be NaN, got ", scan->total().nan,
                  " NaN elements");
  const uint64_t key = ranked(*scan, scores, k);
  scan->decide(scores, key, find_cut(scores, *scan, key, k), words);
  Tensor threshold = torch::stable::new_empty(tensors[0], std::vector<int64_t>{});
  score_of(scores.dtype, key, threshold.mutable_data_ptr());
  return {mask, threshold};
}

}  // namespace
}  // namespace fastforget

STABLE_TORCH_LIBRARY_IMPL(fastforget, CPU, m) { m.impl("select", TORCH_BOX(&fastforget::select)); }
