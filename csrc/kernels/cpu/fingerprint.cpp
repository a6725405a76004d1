// Threads take chunks of a tensor and add up its words: one read, two multiplications a word, bound
// by memory bandwidth. Sums of integers are the same on every instruction set, so the compiler may
// choose between clones of this one loop, and FASTFORGET_SIMD need not.
#include "fingerprint.h"

#include <algorithm>
#include <vector>

#include "../fingerprint.h"

namespace fastforget::cpu {

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FF_CLONES __attribute__((target_clones("default", "avx2", "arch=skylake-avx512")))
#else
#define FF_CLONES
#endif

struct FingerprintSums {
  uint64_t first = 0, second = 0;
};

namespace {

template <class Word>
inline __attribute__((always_inline)) FingerprintSums sum_words(const void* data, int64_t begin,
                                                                int64_t end) {
  const Word* words = static_cast<const Word*>(data);
  // i * factor + term for the four factors, from index to index by an addition: half the work.
  uint32_t at[4];
  for (int j = 0; j < 4; ++j)
    at[j] = static_cast<uint32_t>(begin) * kFingerprintFactors[j] + kFingerprintTerms[j];
  FingerprintSums sum;
  for (int64_t i = begin; i < end; ++i) {
    const uint32_t word = words[i];
    sum.first += uint64_t(word + at[0]) * uint64_t(word ^ at[1]);
    sum.second += uint64_t(word + at[2]) * uint64_t(word ^ at[3]);
    for (int j = 0; j < 4; ++j) at[j] += kFingerprintFactors[j];
  }
  return sum;
}

}  // namespace

// Not in the anonymous namespace: compilers choose between clones by their symbol.
FF_CLONES FingerprintSums fingerprint_elements(const void* data, int element_size, int64_t begin,
                                               int64_t end) {
  switch (element_size) {
    case 1:
      return sum_words<uint8_t>(data, begin, end);
    case 2:
      return sum_words<uint16_t>(data, begin, end);
    default: {
      const int64_t words = element_size / 4;
      return sum_words<uint32_t>(data, begin * words, end * words);
    }
  }
}

void fingerprint(const void* data, int element_size, int64_t elements, uint64_t* sums,
                 const Parallel& parallel) {
  constexpr int64_t kChunk = 1 << 18;
  const int64_t chunks = (elements + kChunk - 1) / kChunk;
  std::vector<FingerprintSums> parts(static_cast<size_t>(chunks));
  parallel(chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c)
      parts[size_t(c)] = fingerprint_elements(data, element_size, c * kChunk,
                                              std::min(elements, (c + 1) * kChunk));
  });
  sums[0] = sums[1] = 0;
  for (const FingerprintSums& part : parts) sums[0] += part.first, sums[1] += part.second;
}

}  // namespace fastforget::cpu
