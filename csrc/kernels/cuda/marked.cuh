// How kernels go through the marked elements of a list of tensors, chunk by chunk.
//
// A block takes 256 words of the mask, a word a thread. Where its elements come in the order of all
// follows from a first reading of the mask alone, which counts them, and a scan over the chunks. Of
// a sparse chunk the block lists the places in shared memory and the threads share the list, so
// that a chunk moves the mask and the sectors of 32 bytes that hold its elements. In a dense chunk
// the threads walk over all elements, and what they read and write lies side by side. Elements are
// single accesses in both: neighbours of a thread share a sector, and a wider access would need
// whole groups of marked elements. Bound by memory.
#pragma once

#include "../bit_mask.h"
#include "block.cuh"
#include "tensor_batch.cuh"

namespace fastforget::cuda {

constexpr int kMaskThreads = 256;
constexpr int64_t kMaskChunk = 64 * kMaskThreads;  // elements
constexpr int kListed = kMaskChunk / 8;            // places that a sparse chunk has at most

// The word of the mask that is this thread's, without what lies beyond the end of the tensor.
__device__ __forceinline__ uint64_t word_of(const void* mask, const Piece& piece) {
  const int64_t left = piece.size - 64 * int64_t(threadIdx.x);
  if (left <= 0) return 0;
  const uint64_t word = static_cast<const uint64_t*>(mask)[piece.offset / 64 + threadIdx.x];
  return left < 64 ? word & ((uint64_t(1) << left) - 1) : word;
}

__device__ __forceinline__ int ones(uint64_t word) {
  return __popcll(static_cast<unsigned long long>(word));
}

// Calls visit(place within the chunk, rank within the chunk) for every marked element.
template <class Visit>
__device__ __forceinline__ void for_marked(uint64_t word, const Visit& visit) {
  SHARED(uint64_t, words, [kMaskThreads]);
  SHARED(int, ranks, [kMaskThreads]);
  SHARED(uint16_t, places, [kListed]);
  const int thread = int(threadIdx.x);
  int count;
  int rank = block_scan<kMaskThreads>(ones(word), count);
  if (count <= kListed) {
    for (; word; word &= word - 1)
      places[rank++] = uint16_t(64 * thread + __ffsll(static_cast<long long>(word)) - 1);
    __syncthreads();
    for (int r = thread; r < count; r += kMaskThreads) visit(int(places[r]), r);
    return;
  }
  words[thread] = word, ranks[thread] = rank;
  __syncthreads();
  const int bit = thread % 64;
  const uint64_t below = (uint64_t(1) << bit) - 1;
#pragma unroll 4
  for (int w = thread / 64; w < kMaskThreads; w += kMaskThreads / 64)
    if (words[w] >> bit & 1) visit(64 * w + bit, ranks[w] + ones(words[w] & below));
}

// Calls launch(batch, blocks) for batches of the tensors. A tensor's first pointer is that of its
// mask, then come `more` pointers, which fill(l, pointers) sets.
template <class Fill, class Launch>
cudaError_t in_mask_batches(const BitMask& m, int more, const Fill& fill, const Launch& launch) {
  int64_t word = 0;
  return in_batches(
      m.L, 1 + more, kMaskChunk, [&](int64_t l) { return m.sizes[l]; }, [](int64_t) { return 0; },
      [&](int64_t l, const void** pointers, int64_t& tag) {
        pointers[0] = m.words + word;
        fill(l, pointers + 1);
        tag = l;
        word += mask_words(m.sizes[l]);
      },
      [&](const TensorBatch& batch, int) { return launch(batch, dim3(unsigned(batch.chunks()))); });
}

inline int64_t chunks_of(const BitMask& m) {
  int64_t chunks = 0;
  for (int64_t l = 0; l < m.L; ++l) chunks += (m.sizes[l] + kMaskChunk - 1) / kMaskChunk;
  return chunks;
}

// ranks[c] = marked elements before chunk c, [chunks + 1].
cudaError_t rank_chunks(const BitMask&, int64_t* ranks, cudaStream_t);

}  // namespace fastforget::cuda
