// One read of the scores per scan. A block of kBlock elements is first only counted (no branches,
// the compiler vectorises it); the few blocks with an element inside the bracket are looked at
// again while they are in L1. Bound by memory bandwidth.
#include "../select.h"

#include <algorithm>

#include "scores.h"

namespace fastforget {
namespace {

using cpu::from_key;
using cpu::Key;
using cpu::to_key;
using cpu::with_score_type;

constexpr int64_t kBlock = 256;

template <class S>
struct Select {
  using Bits = typename Key<S>::Bits;

  static const S* data(const ScoreChunk& chunk) { return static_cast<const S*>(chunk.data); }

  static int64_t sample(const ScoreChunk& chunk, int64_t start, int64_t stride, uint64_t* keys) {
    int64_t count = 0;
    for (int64_t i = start; i < chunk.size; i += stride) keys[count++] = to_key(data(chunk)[i]);
    return count;
  }

  static ScanCounts scan(const ScoreChunk& chunk, Bits low, Bits high, uint64_t* collected) {
    ScanCounts total;
    const S* scores = data(chunk);
    // Floats compare like their keys, NaN apart, and comparing them vectorises on every machine.
    const S floor = from_key<S>(low), ceiling = from_key<S>(high);
    for (int64_t begin = 0; begin < chunk.size; begin += kBlock) {
      const int64_t size = std::min(kBlock, chunk.size - begin);
      const S* block = scores + begin;
      int32_t above = 0, at_high = 0, at_low = 0, inside = 0, nan = 0;
      for (int64_t i = 0; i < size; ++i) {
        const S x = block[i];
        above += x > ceiling;
        at_high += x == ceiling;
        at_low += x == floor;
        inside += int(x > floor) & int(x < ceiling);
        nan += x != x;
      }
      total.above += above;
      total.at_high += at_high;
      total.at_low += low == high ? 0 : at_low;
      total.nan += nan;
      if (inside == 0) continue;
      for (int64_t i = 0; i < size; ++i) {
        const S x = block[i];
        collected[total.inside] = to_key(x);
        total.inside += int(x > floor) & int(x < ceiling);
        if (total.inside == chunk.size) break;
      }
    }
    return total;
  }

  static void histogram(const ScoreChunk& chunk, Bits prefix, int shift, int64_t* counts) {
    const int above = shift + 16;
    const bool all = above >= int(8 * sizeof(Bits));
    for (int64_t i = 0; i < chunk.size; ++i) {
      const Bits key = to_key(data(chunk)[i]);
      if (all || key >> above == prefix >> above) ++counts[key >> shift & 0xffff];
    }
  }

  static int64_t find(const ScoreChunk& chunk, Bits key, int64_t rank) {
    for (int64_t i = 0; i < chunk.size; ++i)
      if (to_key(data(chunk)[i]) == key && rank-- == 0) return i;
    return chunk.size;
  }

  static void mask(const ScoreChunk& chunk, Bits threshold, int64_t cut, bool* mask) {
    const S limit = from_key<S>(threshold);
    const S* scores = data(chunk);
    const int64_t ties = std::clamp<int64_t>(cut - chunk.position, 0, chunk.size);
    for (int64_t i = 0; i < ties; ++i) mask[i] = scores[i] >= limit;
    for (int64_t i = ties; i < chunk.size; ++i) mask[i] = scores[i] > limit;
  }
};

}  // namespace

const SelectKernels& select_kernels_cpu() {
  static const SelectKernels kernels = {
      [](DType dtype, const ScoreChunk& chunk, int64_t start, int64_t stride, uint64_t* keys) {
        return with_score_type(
            dtype, [&](auto s) { return Select<decltype(s)>::sample(chunk, start, stride, keys); });
      },
      [](DType dtype, const ScoreChunk& chunk, uint64_t low, uint64_t high, uint64_t* collected) {
        return with_score_type(
            dtype, [&](auto s) { return Select<decltype(s)>::scan(chunk, low, high, collected); });
      },
      [](DType dtype, const ScoreChunk& chunk, uint64_t prefix, int shift, int64_t* counts) {
        with_score_type(
            dtype, [&](auto s) { Select<decltype(s)>::histogram(chunk, prefix, shift, counts); });
      },
      [](DType dtype, const ScoreChunk& chunk, uint64_t key, int64_t rank) {
        return with_score_type(dtype,
                               [&](auto s) { return Select<decltype(s)>::find(chunk, key, rank); });
      },
      [](DType dtype, const ScoreChunk& chunk, uint64_t threshold, int64_t cut, bool* mask) {
        with_score_type(dtype,
                        [&](auto s) { Select<decltype(s)>::mask(chunk, threshold, cut, mask); });
      }};
  return kernels;
}

int key_bits(DType dtype) { return dtype == DType::f64 ? 64 : 32; }

uint64_t key_of(DType dtype, const void* score) {
  return with_score_type(
      dtype, [&](auto s) { return uint64_t(to_key(*static_cast<const decltype(s)*>(score))); });
}

void score_of(DType dtype, uint64_t key, void* score) {
  with_score_type(dtype, [&](auto s) {
    using S = decltype(s);
    *static_cast<S*>(score) = from_key<S>(static_cast<typename Key<S>::Bits>(key));
  });
}

}  // namespace fastforget
