// Finds a bracket of keys around the k-th largest score from samples, scans all scores once
// relative to it, and takes the exact threshold from the few scores that lie inside. Bound by
// memory: one read of all scores, and before it scattered reads of at most some 130 thousand, or
// one score in 512, for the samples. A bracket that misses costs another read of all; that happens
// in one case out of twenty.
#include "select.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <mutex>

#include "bracket_scan.h"
#include "dispatch.h"

namespace fastforget::cpu {
namespace {

uint64_t key_of_value(DType dtype, double value) {
  const float single = static_cast<float>(value);
  return dtype == DType::f64 ? key_of(dtype, &value) : key_of(DType::f32, &single);
}

Bracket all_keys(DType dtype) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  return {key_of_value(dtype, -infinity), key_of_value(dtype, infinity)};
}

class Selection {
 public:
  Selection(const ScoreTensors& tensors, int64_t k, const Parallel& parallel)
      : scores_(tensors), k_(k), parallel_(parallel) {}

  int64_t run(uint64_t* mask, void* threshold) const {
    const std::unique_ptr<BracketScan> scan = scan_around_threshold(mask);
    if (scan->total().nan > 0) return scan->total().nan;
    const uint64_t key = key_of_rank(*scan, k_);
    scan->complete_mask(key, end_of_ties(*scan, key), mask);
    score_of(scores_.dtype, key, threshold);
    return 0;
  }

 private:
  using Scan = std::unique_ptr<BracketScan>;

  Scan scan_sample(Bracket bracket, int64_t stride) const {
    return std::make_unique<BracketScan>(scores_, bracket, stride, nullptr, parallel_);
  }
  Scan scan_all(Bracket bracket, uint64_t* mask) const {
    return std::make_unique<BracketScan>(scores_, bracket, 1, mask, parallel_);
  }

  // A scan of all scores whose bracket holds the k-th largest, or that met NaN. A few thousand
  // scores give a bracket for a larger sample: of up to a hundred thousand, or of one score in 512,
  // which costs little beside the scan and leaves few words that it does not decide. That sample
  // gives one for the scan, narrow enough that the scan collects less than one score in 128. It
  // misses in one case out of twenty; the next bracket is further from the middle, and the last one
  // is exact.
  Scan scan_around_threshold(uint64_t* mask) const {
    constexpr int64_t kCoarse = 1 << 12;  // scores in the first sample
    if (scores_.total < kCoarse) return scan_all(all_keys(scores_.dtype), mask);
    int64_t stride = std::max<int64_t>(8, scores_.total / kCoarse);
    Scan sample = scan_sample(all_keys(scores_.dtype), stride);
    if (scores_.total > 128 * kCoarse) {
      const Bracket bracket = suggest_bracket(*sample, stride, -4, 4);
      const double share = double(k_) / double(scores_.total);
      const double size =
          std::max({4.0 * kCoarse, 5e5 * share * (1 - share), double(scores_.total) / 512});
      if (bracket.low < bracket.high) {
        stride = static_cast<int64_t>(double(scores_.total) / size);
        sample = scan_sample(bracket, stride);
      }
    }
    Scan scan = scan_all(suggest_bracket(*sample, stride, -2, 2), mask);
    if (scan->total().nan > 0 || holds_threshold(*scan)) return scan;
    const bool higher = k_ <= scan->total().above;
    scan.reset();  // its memory is needed for the next
    scan = scan_all(suggest_bracket(*sample, stride, higher ? -8 : 2, higher ? -2 : 8), mask);
    if (holds_threshold(*scan)) return scan;
    scan.reset();
    const uint64_t key = radix_select(scores_.dtype, scores_.chunks, all_keys(scores_.dtype), k_);
    return scan_all({key, key}, mask);
  }

  // Where a sample of one score in `stride` suggests that the k-th largest lies: between `from` and
  // `to` standard deviations of its rank in the sample. For the few at either end the normal
  // distribution is too narrow, hence z * z more.
  Bracket suggest_bracket(const BracketScan& sample, int64_t stride, double from, double to) const {
    if (!sample.collected_all()) return sample.bracket();
    const double share = double(k_) / double(scores_.total), rank = double(k_) / double(stride);
    const auto key_at = [&](double z) {
      const double shifted = rank + z * std::sqrt(rank * (1 - share)) + z * std::abs(z);
      return key_of_rank(sample, static_cast<int64_t>(std::floor(shifted)));
    };
    return {key_at(to), key_at(from)};
  }

  bool holds_threshold(const BracketScan& scan) const {
    const ScanCounts& total = scan.total();
    return scan.collected_all() && k_ > total.above &&
           k_ <= total.above + total.at_high + total.inside + total.at_low;
  }

  // The key of the `rank`-th largest score that was scanned; an end of the bracket where it does
  // not lie inside.
  uint64_t key_of_rank(const BracketScan& scan, int64_t rank) const {
    const ScanCounts& total = scan.total();
    rank -= total.above + total.at_high;
    if (rank <= 0) return scan.bracket().high;
    if (rank > total.inside) return scan.bracket().low;
    return radix_select(value_type(scores_.dtype), scan.collected(), scan.bracket(), rank);
  }

  // The key of the `rank`-th largest (from 1) of scores whose keys lie in the bracket, exactly: by
  // counting eleven bits at a time, below those that the ends of the bracket have in common.
  uint64_t radix_select(DType dtype, const std::vector<ScoreChunk>& chunks, Bracket bracket,
                        int64_t rank) const {
    constexpr int kDigit = 11;
    using Histogram = std::array<int64_t, 1 << kDigit>;
    int left = std::bit_width(bracket.low ^ bracket.high);
    uint64_t key = left == 64 ? 0 : bracket.low >> left << left;
    while (left > 0) {
      const int shift = std::max(left - kDigit, 0);
      Histogram counts{};
      std::mutex mutex;
      share_chunks(chunks.size(), parallel_, [&](const auto& take) {
        Histogram own{};
        for (size_t c; (c = take()) < chunks.size();)
          select_kernels().histogram(dtype, chunks[c], key, left, shift, own.data());
        const std::lock_guard lock(mutex);
        for (size_t digit = 0; digit < own.size(); ++digit) counts[digit] += own[digit];
      });
      uint64_t digit = (uint64_t(1) << (left - shift)) - 1;
      while (rank > counts[digit]) rank -= counts[digit--];
      key |= digit << shift;
      left = shift;
    }
    return key;
  }

  // One past the position of the last score equal to `key` among the k largest.
  int64_t end_of_ties(const BracketScan& scan, uint64_t key) const {
    int64_t ties = k_ - scan.above(key);
    for (size_t c = 0; c < scores_.chunks.size(); ++c) {
      const int64_t equal = scan.equal(c, key);
      const ScoreChunk& chunk = scores_.chunks[c];
      if (ties <= equal)
        return chunk.position + select_kernels().find(scores_.dtype, chunk, key, ties - 1) + 1;
      ties -= equal;
    }
    return scores_.total;
  }

  const ScoreList scores_;
  const int64_t k_;
  const Parallel& parallel_;
};

}  // namespace

int64_t select(const ScoreTensors& tensors, int64_t k, uint64_t* mask, void* threshold,
               const Parallel& parallel) {
  return Selection(tensors, k, parallel).run(mask, threshold);
}

}  // namespace fastforget::cpu
