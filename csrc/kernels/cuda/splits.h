// Among how many blocks a kernel shares the samples. Plain C++: the host decides it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

namespace fastforget::cuda {

// Work that is there without sharing samples, and what runs it.
struct Sharing {
  int64_t blocks, samples;
  int64_t slots;  // blocks that the device runs at the same time
  int64_t bytes;  // of scratch memory for each share
};

// What a call takes, in samples that a block goes through. Blocks run in waves, and the last wave
// takes as long as a full one. Around its samples a block does work that counts as one more: it
// fills its pipeline and writes its part. Parts that are added afterwards count as a second one.
inline int64_t time_of(const Sharing& work, int64_t splits) {
  const int64_t waves = (work.blocks * splits + work.slots - 1) / work.slots;
  return waves * ((work.samples + splits - 1) / splits + (splits > 1 ? 2 : 1));
}

// The least number of shares that takes the least time. Scratch memory stays bounded.
inline int64_t splits_for(const Sharing& work) {
  constexpr int64_t kScratch = 64 << 20, kGrid = 65535;
  if (work.blocks <= 0 || work.bytes <= 0) return 1;
  // More than eight waves only add to what blocks do around their samples.
  const int64_t useful = 8 * work.slots / work.blocks + 1;
  const int64_t most = std::min({work.samples, kScratch / work.bytes, kGrid, useful});
  int64_t best = 1;
  for (int64_t splits = 2; splits <= most; ++splits)
    if (time_of(work, splits) < time_of(work, best)) best = splits;
  return best;
}

}  // namespace fastforget::cuda
