// The table of select kernels of one instruction set. Included once by each select_<isa>.cpp, which
// defines FF_VECTOR_BYTES.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "element.h"
#include "score_keys.h"
#include "select_kernels.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "isa_begin.h"

namespace fastforget::cpu::FF_ISA {
namespace {

// clang-format off: each needs the ones above it
#include "simd.h"
#include "compare_lanes.h"
#include "select_scan.h"
// clang-format on

ScanCounts scan(DType dtype, const ScoreChunk& chunk, Bracket bracket, const ScanResults& results) {
  return with_dtype(dtype,
                    [&](auto x) { return Select<decltype(x)>::scan(chunk, bracket, results); });
}

ScanCounts sample(DType dtype, const ScoreChunk& chunk, int64_t stride, Bracket bracket,
                  const ScanResults& results) {
  return with_dtype(
      dtype, [&](auto x) { return Select<decltype(x)>::sample(chunk, stride, bracket, results); });
}

void histogram(DType dtype, const ScoreChunk& chunk, uint64_t prefix, int left, int shift,
               int64_t* counts) {
  with_dtype(dtype,
             [&](auto x) { Select<decltype(x)>::histogram(chunk, prefix, left, shift, counts); });
}

int64_t find(DType dtype, const ScoreChunk& chunk, uint64_t key, int64_t rank) {
  return with_dtype(dtype, [&](auto x) { return Select<decltype(x)>::find(chunk, key, rank); });
}

void decide(DType dtype, const ScoreChunk& chunk, uint64_t threshold, int64_t end,
            const uint64_t* undecided, uint64_t* mask) {
  with_dtype(dtype,
             [&](auto x) { Select<decltype(x)>::decide(chunk, threshold, end, undecided, mask); });
}

}  // namespace

extern const SelectKernels select_kernels;
const SelectKernels select_kernels = {scan, sample, histogram, find, decide, count_ones};

}  // namespace fastforget::cpu::FF_ISA

#include "isa_end.h"
