// Exact global top-k over a list of tensors that are never concatenated.
//
// Scores are compared as unsigned keys that sort like the floats (-0 equals +0). A bracket of two
// keys around the k-th largest comes from a fixed-stride sample; one scan then counts what lies
// above it and collects what lies inside, from which the exact threshold follows. Keys equal to a
// bracket end are counted, not collected: a Fisher diagonal may be mostly exact zeros.
#pragma once

#include <cstdint>

#include "types.h"

namespace fastforget {

// Elements [first, first + size) of one score tensor, at `position` in the list's (tensor, element)
// order.
struct ScoreChunk {
  const void* data;
  int64_t size;
  int64_t position;
};

struct ScanCounts {
  int64_t above = 0;    // key > high
  int64_t at_high = 0;  // key == high
  int64_t at_low = 0;   // key == low, low < high
  int64_t inside = 0;   // low < key < high: collected
  int64_t nan = 0;
};

struct SelectKernels {
  // Keys of every `stride`-th element starting at `start`; returns how many were written.
  int64_t (*sample)(DType, const ScoreChunk&, int64_t start, int64_t stride, uint64_t* keys);
  // Counts relative to the bracket; `inside` keys are written to `collected` (room for chunk.size).
  ScanCounts (*scan)(DType, const ScoreChunk&, uint64_t low, uint64_t high, uint64_t* collected);
  // histogram[digit] += 1 for keys whose bits above `shift + 16` equal those of `prefix`.
  void (*histogram)(DType, const ScoreChunk&, uint64_t prefix, int shift, int64_t* histogram);
  // Index within the chunk of its `rank`-th (from 0) element with this key.
  int64_t (*find)(DType, const ScoreChunk&, uint64_t key, int64_t rank);
  // mask[i] = key > threshold, or key == threshold and position + i < cut.
  void (*mask)(DType, const ScoreChunk&, uint64_t threshold, int64_t cut, bool* mask);
};

const SelectKernels& select_kernels_cpu();

// Number of key bits of a score type, and the two conversions.
int key_bits(DType);
uint64_t key_of(DType, const void* score);
void score_of(DType, uint64_t key, void* score);

}  // namespace fastforget
