// The kernels of select, one table per instruction set (see dispatch.h).
//
// A bracket of two keys lies around the k-th largest score. A scan of all scores counts what lies
// above it and collects what lies inside, from which the exact threshold follows. Scores equal to
// an end of the bracket are counted, not collected: a Fisher diagonal may be mostly exact zeros.
//
// The scan also writes the bit mask as far as the bracket decides it. It marks the groups of
// elements that hold something else; those are compared again once the threshold is known.
#pragma once

#include <cstdint>

#include "../bit_mask.h"
#include "../types.h"

namespace fastforget::cpu {

// Elements [first, first + size) of one score tensor, at `position` in the list's (tensor, element)
// order.
struct ScoreChunk {
  const void* data;
  int64_t size;
  int64_t position;
};

// A closed range of keys, low <= high.
struct Bracket {
  uint64_t low, high;
};

struct ScanCounts {
  int64_t above = 0;    // key > high
  int64_t at_high = 0;  // key == high
  int64_t inside = 0;   // low < key < high: collected
  int64_t at_low = 0;   // key == low, low < high
  int64_t nan = 0;
};

// What a scan writes. Null pointers: not wanted.
struct ScanResults {
  void* inside;  // the first `room` scores inside the bracket, in any order
  int64_t room;
  uint64_t* mask;       // key > high
  uint64_t* undecided;  // a bit per group that the bracket does not decide, zeros before
};

// Scores are float32, float64, bfloat16 or float16; what is collected has the value type, float32
// for the half types.
struct SelectKernels {
  static constexpr int64_t kGroup = 32;  // elements

  ScanCounts (*scan)(DType, const ScoreChunk&, Bracket, const ScanResults&);
  // The same for one element in every `stride` of the list, without a mask. Its place differs from
  // stretch to stretch, so that no period of the data can hide from it.
  ScanCounts (*sample)(DType, const ScoreChunk&, int64_t stride, Bracket, const ScanResults&);
  // Counts the values of the bits [shift, left) among the keys that equal `prefix` from bit `left`
  // up: added to counts[1 << (left - shift)].
  void (*histogram)(DType, const ScoreChunk&, uint64_t prefix, int left, int shift,
                    int64_t* counts);
  // Index within the chunk of its `rank`-th (from 0) element with this key.
  int64_t (*find)(DType, const ScoreChunk&, uint64_t key, int64_t rank);
  // The mask of the undecided groups: key > threshold, or key == threshold and position + i < end.
  void (*decide)(DType, const ScoreChunk&, uint64_t threshold, int64_t end,
                 const uint64_t* undecided, uint64_t* mask);
  // Number of ones.
  int64_t (*count_ones)(const uint64_t* words, int64_t size);
};

}  // namespace fastforget::cpu
