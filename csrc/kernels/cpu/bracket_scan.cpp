// See bracket_scan.h for what a pass over the scores reads and keeps.
#include "bracket_scan.h"

#include <algorithm>
#include <cstring>

#include "dispatch.h"

namespace fastforget::cpu {

ScoreList::ScoreList(const ScoreTensors& tensors)
    : dtype(tensors.dtype), places(chunks_of(tensors.L, tensors.sizes)) {
  chunks.reserve(places.size());
  for (const Chunk& place : places) {
    const char* const data = static_cast<const char*>(tensors.scores[place.tensor]);
    chunks.push_back({data + place.offset * element_size(dtype), place.size, total});
    total += place.size;
  }
}

namespace {

// Room for the scores inside the bracket: one in 128, for a bracket that keeps more was a bad one.
int64_t capacity_for(int64_t total) {
  constexpr int64_t kSmall = 1 << 16;
  return std::min(total, std::max(total / 128, kSmall));
}

}  // namespace

BracketScan::BracketScan(const ScoreList& scores, Bracket bracket, int64_t stride, uint64_t* mask,
                         const Parallel& parallel)
    : scores_(scores),
      parallel_(parallel),
      bracket_(bracket),
      type_(value_type(scores.dtype)),
      capacity_(capacity_for(scores.total)),
      collected_(capacity_ * value_bytes()),
      parts_(scores.chunks.size()),
      undecided_(mask ? scores.chunks.size() : 0) {
  std::atomic<int64_t> used{0};
  for_chunks(parts_.size(), parallel, [&](size_t c) { scan_chunk(c, stride, mask, used); });
  for (const Part& part : parts_) {
    total_.above += part.counts.above;
    total_.at_high += part.counts.at_high;
    total_.inside += part.counts.inside;
    total_.at_low += part.counts.at_low;
    total_.nan += part.counts.nan;
  }
}

// What a chunk collects is usually little. It is kept aside until its place in the array is known.
// Where it is more than fits aside, the chunk is scanned again, from the cache.
void BracketScan::scan_chunk(size_t c, int64_t stride, uint64_t* mask, std::atomic<int64_t>& used) {
  constexpr int64_t kAside = 1024;
  double aside[kAside];
  uint64_t* const words = mask ? mask + scores_.places[c].word : nullptr;
  uint64_t* const undecided = mask ? undecided_[c].data() : nullptr;
  const auto scan_into = [&](void* inside, int64_t room) {
    const SelectKernels& kernels = select_kernels();
    const ScanResults results{inside, room, words, undecided};
    return stride == 1
               ? kernels.scan(scores_.dtype, scores_.chunks[c], bracket_, results)
               : kernels.sample(scores_.dtype, scores_.chunks[c], stride, bracket_, results);
  };
  Part& part = parts_[c];
  part.counts = scan_into(aside, kAside);
  const int64_t size = part.counts.inside;
  part.start = used.fetch_add(size);
  if (size == 0 || part.start + size > capacity_) return;
  if (size > kAside)
    scan_into(collected_at(part.start), size);
  else
    std::memcpy(collected_at(part.start), aside, size_t(size * value_bytes()));
}

void BracketScan::complete_mask(uint64_t threshold, int64_t end, uint64_t* mask) const {
  for_chunks(parts_.size(), parallel_, [&](size_t c) {
    const ScoreChunk& chunk = scores_.chunks[c];
    // The scan has marked what is above the upper end: only ties are left to add.
    if (threshold == bracket_.high && chunk.position >= end) return;
    select_kernels().decide(scores_.dtype, chunk, threshold, end, undecided_[c].data(),
                            mask + scores_.places[c].word);
  });
}

int64_t BracketScan::above(uint64_t key) const {
  if (key == bracket_.high) return total_.above;
  const int64_t inside =
      key == bracket_.low ? total_.inside : count_collected(0, total_.inside, key).above;
  return total_.above + total_.at_high + inside;
}

int64_t BracketScan::equal(size_t c, uint64_t key) const {
  const Part& part = parts_[c];
  if (key == bracket_.high) return part.counts.at_high;
  if (key == bracket_.low) return part.counts.at_low;
  return count_collected(part.start, part.counts.inside, key).at_high;
}

// Counts relative to one key among `size` of the collected scores.
ScanCounts BracketScan::count_collected(int64_t start, int64_t size, uint64_t key) const {
  return select_kernels().scan(type_, {collected_at(start), size, 0}, {key, key}, {});
}

}  // namespace fastforget::cpu
