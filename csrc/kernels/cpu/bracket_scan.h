// One pass over all scores of a list, or over a sample of them, relative to a bracket of keys.
//
// Threads take chunks in turn. Each reads its scores once and keeps the few inside the bracket, in
// one array for all chunks; how many lie above, at and inside it is known per chunk. Bound by the
// read of the scores.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "../select.h"
#include "buffer.h"
#include "chunks.h"
#include "parallel.h"
#include "score_keys.h"
#include "select_kernels.h"

namespace fastforget::cpu {

// All scores as one list of chunks.
struct ScoreList {
  explicit ScoreList(const ScoreTensors&);

  DType dtype;
  int64_t total = 0;  // elements
  std::vector<Chunk> places;
  std::vector<ScoreChunk> chunks;
};

class BracketScan {
 public:
  // Of one score in `stride`, or of all where that is 1. Then `mask`, unless null, is written as
  // far as the bracket decides it.
  BracketScan(const ScoreList&, Bracket, int64_t stride, uint64_t* mask, const Parallel&);

  // Writes the rest of the mask, for a threshold in the bracket. Scores equal to it are selected
  // before position `end` of the list.
  void complete_mask(uint64_t threshold, int64_t end, uint64_t* mask) const;

  const ScanCounts& total() const { return total_; }
  Bracket bracket() const { return bracket_; }

  // Whether there was room for all scores inside the bracket.
  bool collected_all() const { return total_.inside <= capacity_; }

  // The collected scores, which have the value type.
  std::vector<ScoreChunk> collected() const { return {{collected_.get(), total_.inside, 0}}; }

  // How many scores are above this key, which lies in the bracket.
  int64_t above(uint64_t key) const;

  // How many scores of a chunk have this key, which lies in the bracket.
  int64_t equal(size_t chunk, uint64_t key) const;

 private:
  struct Part {
    ScanCounts counts;
    int64_t start;  // of what the chunk collected
  };

  int64_t value_bytes() const { return key_bits(type_) / 8; }
  char* collected_at(int64_t i) const {
    return static_cast<char*>(collected_.get()) + i * value_bytes();
  }
  ScanCounts count_collected(int64_t start, int64_t size, uint64_t key) const;
  void scan_chunk(size_t chunk, int64_t stride, uint64_t* mask, std::atomic<int64_t>& used);

  const ScoreList& scores_;
  const Parallel& parallel_;
  const Bracket bracket_;
  const DType type_;
  const int64_t capacity_;
  const Buffer collected_;
  std::vector<Part> parts_;  // one per chunk
  std::vector<std::array<uint64_t, Chunk::kSize / SelectKernels::kGroup / 64>> undecided_;
  ScanCounts total_;
};

}  // namespace fastforget::cpu
