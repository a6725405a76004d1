// Counts one digit of the keys of each tensor, for a search that goes on across devices.
//
// A block reads up to 32K scores, eight a thread and 16 bytes at a time where they are aligned, and
// counts in shared memory. Bound by the read of the scores.
#include "block.cuh"
#include "digit_counts.cuh"
#include "score_keys.cuh"
#include "select.h"
#include "tensor_batch.cuh"

namespace fastforget::cuda {
namespace {

template <class E>
__global__ void __launch_bounds__(kSelectThreads)
    count_digit(const __grid_constant__ TensorBatch batch, Counter* all, uint64_t prefix, int left,
                int shift) {
  SHARED(unsigned, counts, [kDigits]);
  const Piece piece = piece_of(batch, blockIdx.x);
  const E* const scores = static_cast<const E*>(batch.pointers[piece.tensor]) + piece.offset;
  const bool vectors = on_16_bytes(scores);
  const bool every = left == 8 * int(sizeof(key_of(wide(E()))));
  const int digits = 1 << (left - shift);
  clear_counts(counts);
  Tally tally(counts);
  for (int64_t at = 8 * int64_t(threadIdx.x); at < piece.size; at += kRow) {
    const int64_t there = piece.size - at;
    const Eight<E> eight = load_eight(scores + at, there, vectors);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const auto key = key_of(wide(eight.values[i]));
      if (i < there && (every || key >> left == prefix))
        tally.add(int(key >> shift) & (digits - 1));
    }
  }
  tally.flush();
  add_counts(all + batch.tag[piece.tensor] * digits, counts, digits);
}

}  // namespace

cudaError_t select_histogram(const ScoreTensors& s, uint64_t prefix, int left, int shift,
                             int64_t* counts, cudaStream_t stream) {
  return with_element(s.dtype, [&](auto e) {
    return in_batches(
        s.L, 1, kSelectChunk, [&](int64_t l) { return s.sizes[l]; },
        [&](int64_t) { return s.dtype; },
        [&](int64_t l, const void** pointers, int64_t& tag) {
          pointers[0] = s.scores[l];
          tag = l;
        },
        [&](const TensorBatch& batch, DType) {
          return launch(count_digit<decltype(e)>, dim3(unsigned(batch.chunks())), kSelectThreads, 0,
                        stream, batch, reinterpret_cast<Counter*>(counts), prefix, left, shift);
        });
  });
}

}  // namespace fastforget::cuda
