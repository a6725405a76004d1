// Two sums over the words of each tensor of a list.
//
// A block reads 32K words, eight a thread and 16 bytes at a time where they are aligned, and adds
// what it has summed up to the tensor's two sums: they are modulo 2^64, so their order is of no
// account. Two 32-bit multiplications of 64 bits a word against its four bytes: bound by memory,
// for words of one or two bytes by the multiplications.
#include "fingerprint.h"

#include "../fingerprint.h"
#include "block.cuh"
#include "tensor_batch.cuh"

namespace fastforget::cuda {
namespace {

constexpr int kSumThreads = 256;
constexpr int64_t kSumChunk = 1 << 15;  // words

template <int kSet>
__device__ __forceinline__ uint32_t line(uint32_t index) {
  constexpr uint32_t factor = kFingerprintFactors[kSet], term = kFingerprintTerms[kSet];
  return index * factor + term;
}

template <class Word>
__global__ void __launch_bounds__(kSumThreads)
    sum_words(const __grid_constant__ TensorBatch batch, unsigned long long* sums) {
  const Piece piece = piece_of(batch, blockIdx.x);
  const Word* const words = static_cast<const Word*>(batch.pointers[piece.tensor]) + piece.offset;
  const bool vectors = on_16_bytes(words);
  uint64_t first = 0, second = 0;
  for (int64_t at = 8 * int64_t(threadIdx.x); at < piece.size; at += 8 * kSumThreads) {
    const int64_t there = piece.size - at;
    const Eight<Word> eight = load_eight(words + at, there, vectors);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t word = eight.values[i], index = static_cast<uint32_t>(piece.offset + at + i);
      if (i >= there) continue;
      first += uint64_t(word + line<0>(index)) * uint64_t(word ^ line<1>(index));
      second += uint64_t(word + line<2>(index)) * uint64_t(word ^ line<3>(index));
    }
  }
  uint64_t all[2];
  block_scan<kSumThreads>(first, all[0]);
  block_scan<kSumThreads>(second, all[1]);
  if (threadIdx.x > 0) return;
  for (int s = 0; s < 2; ++s)
    atomicAdd(sums + 2 * batch.tag[piece.tensor] + s, static_cast<unsigned long long>(all[s]));
}

}  // namespace

cudaError_t fingerprint(int64_t L, const int64_t* sizes, const int* element_sizes,
                        const void* const* tensors, uint64_t* sums, cudaStream_t stream) {
  const cudaError_t error = cudaMemsetAsync(sums, 0, size_t(L) * 16, stream);
  if (error != cudaSuccess) return error;
  const auto word_size = [&](int64_t l) { return std::min(element_sizes[l], 4); };
  return in_batches(
      L, 1, kSumChunk, [&](int64_t l) { return sizes[l] * (element_sizes[l] / word_size(l)); },
      word_size,
      [&](int64_t l, const void** pointers, int64_t& tag) { pointers[0] = tensors[l], tag = l; },
      [&](const TensorBatch& batch, int size) {
        const auto run = [&](auto word) {
          return launch(sum_words<decltype(word)>, dim3(unsigned(batch.chunks())), kSumThreads, 0,
                        stream, batch, reinterpret_cast<unsigned long long*>(sums));
        };
        return size == 1 ? run(uint8_t{}) : size == 2 ? run(uint16_t{}) : run(uint32_t{});
      });
}

}  // namespace fastforget::cuda
