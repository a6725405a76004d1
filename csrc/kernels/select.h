// Exact global top-k over a list of tensors that are never concatenated.
//
// Scores are compared as unsigned keys that sort like the floats (-0 equals +0). A bracket of two
// keys around the k-th largest comes from samples; one scan of all scores then counts what lies
// above it and collects what lies inside, from which the exact threshold follows. Scores equal to
// an end of the bracket are counted, not collected: a Fisher diagonal may be mostly exact zeros.
//
// What is selected is a bit mask: words of 64 elements, bit 0 first, every tensor beginning a word.
// The scan already writes it as the bracket decides it; groups of elements of which one is not
// above or below the bracket are marked, and looked at again once the threshold is known.
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
  uint64_t* mask;   // key > high
  uint64_t* marks;  // a bit per group that is not decided by the bracket, zeros before
};

// Scores are float32, float64, bfloat16 or float16; what is collected has the value type, float32
// for the half types.
struct SelectKernels {
  static constexpr int64_t kWord = 64, kGroup = 32;  // elements

  ScanCounts (*scan)(DType, const ScoreChunk&, Bracket, const ScanResults&);
  // The same for one element of every `stride` of the list, without a mask: at a fixed place within
  // its stretch, but another one in each, so that no period of the data can hide from it.
  ScanCounts (*sample)(DType, const ScoreChunk&, int64_t stride, Bracket, const ScanResults&);
  // Of the keys that equal `prefix` from bit `left` up, how many have each value of the bits
  // [shift, left): added to counts[1 << (left - shift)].
  void (*histogram)(DType, const ScoreChunk&, uint64_t prefix, int left, int shift,
                    int64_t* counts);
  // Index within the chunk of its `rank`-th (from 0) element with this key.
  int64_t (*find)(DType, const ScoreChunk&, uint64_t key, int64_t rank);
  // The mask of marked groups: key > threshold, or key == threshold and position + i < cut.
  void (*decide)(DType, const ScoreChunk&, uint64_t threshold, int64_t cut, const uint64_t* marks,
                 uint64_t* mask);
  // Number of ones.
  int64_t (*count)(const uint64_t* words, int64_t size);
};

// What collected scores are stored as, the bits of a key, and the conversions of one score.
DType value_type(DType);
int key_bits(DType);
uint64_t key_of(DType, const void* score);
void score_of(DType, uint64_t key, void* score);

}  // namespace fastforget
