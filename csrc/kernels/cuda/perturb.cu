// What is done with the selected elements of a list of tensors, chunk by chunk.
//
// A block takes 256 words of the mask, a word a thread. Where its elements come in the order of all
// follows from a first reading of the mask alone, which counts them, and a scan over the chunks. Of
// a sparse chunk the block lists the places in shared memory, and the threads share the list, so
// that a chunk moves the mask and the sectors of 32 bytes that hold its elements; in a dense one
// the threads walk over all elements, and what they read and write lies side by side. Elements are
// single accesses in both: neighbours of a thread share a sector, and a wider one would need whole
// groups of marked elements. Bound by memory. Writes at given places are a thread per value and
// bound by their scattered sectors.
#include "perturb.h"

#include "block.cuh"
#include "element.cuh"
#include "tensor_batch.cuh"

namespace fastforget::cuda {
namespace {

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
  __shared__ uint64_t words[kMaskThreads];
  __shared__ int ranks[kMaskThreads];
  __shared__ uint16_t places[kListed];
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

__global__ void __launch_bounds__(kMaskThreads)
    count_marked(const __grid_constant__ TensorBatch batch, int64_t* ranks) {
  const Piece piece = piece_of(batch, blockIdx.x);
  const uint64_t word = word_of(batch.pointers[piece.tensor * batch.per_tensor], piece);
  int count;
  block_scan<kMaskThreads>(ones(word), count);
  if (threadIdx.x == 0) ranks[batch.chunks_before + blockIdx.x] = count;
}

__global__ void __launch_bounds__(kMaskThreads) scan_marked(int64_t* ranks, int64_t chunks) {
  scan_in_place<kMaskThreads>(ranks, chunks);
}

// A thread per tensor of the batch.
__global__ void count_per_tensor(const __grid_constant__ TensorBatch batch, const int64_t* ranks,
                                 int64_t k, int64_t* counts) {
  const int l = int(threadIdx.x);
  if (l >= batch.count) return;
  const auto before = [&](int64_t chunk) { return min(k, ranks[batch.chunks_before + chunk]); };
  counts[batch.tag[l]] = before(batch.first_chunk[l + 1]) - before(batch.first_chunk[l]);
}

template <class Index>
__global__ void __launch_bounds__(kMaskThreads)
    list_indices(const __grid_constant__ TensorBatch batch, const int64_t* ranks, int64_t k,
                 Index* indices) {
  const Piece piece = piece_of(batch, blockIdx.x);
  const int64_t first = ranks[batch.chunks_before + blockIdx.x];
  for_marked(word_of(batch.pointers[piece.tensor], piece), [&](int place, int rank) {
    if (first + rank < k) indices[first + rank] = Index(piece.offset + place);
  });
}

// Sixteen elements a thread and step.
__global__ void __launch_bounds__(kMaskThreads)
    write_bytes(const __grid_constant__ TensorBatch batch) {
  const Piece piece = piece_of(batch, blockIdx.x);
  const void* const* const pointers = batch.pointers + 2 * piece.tensor;
  const uint16_t* const mask = static_cast<const uint16_t*>(pointers[0]) + piece.offset / 16;
  uint8_t* const out = static_cast<uint8_t*>(const_cast<void*>(pointers[1])) + piece.offset;
  const auto four = [](unsigned bits) { return (bits & 15) * 0x00204081 & 0x01010101; };
  for (int64_t at = 16 * int64_t(threadIdx.x); at < piece.size; at += 16 * kMaskThreads) {
    const unsigned bits = mask[at / 16];
    const int64_t there = piece.size - at;
    if (there >= 16) {
      *reinterpret_cast<uint4*>(out + at) =
          uint4{four(bits), four(bits >> 4), four(bits >> 8), four(bits >> 12)};
      continue;
    }
    for (int i = 0; i < there; ++i) out[at + i] = bits >> i & 1;
  }
}

// The product and the sum are rounded each, as on the CPU, and never one operation.
__device__ __forceinline__ float step_to(float value, float alpha, float direction) {
  return __fadd_rn(value, __fmul_rn(alpha, direction));
}
__device__ __forceinline__ double step_to(double value, double alpha, double direction) {
  return __dadd_rn(value, __dmul_rn(alpha, direction));
}

template <class P, class S>
__global__ void __launch_bounds__(kMaskThreads)
    perturb_marked(const __grid_constant__ TensorBatch batch, const int64_t* ranks, int64_t k,
                   S alpha, P* old) {
  const Piece piece = piece_of(batch, blockIdx.x);
  const void* const* const pointers = batch.pointers + 3 * piece.tensor;
  P* const parameters = static_cast<P*>(const_cast<void*>(pointers[1])) + piece.offset;
  const S* const directions = static_cast<const S*>(pointers[2]) + piece.offset;
  const int64_t first = ranks[batch.chunks_before + blockIdx.x];
  for_marked(word_of(pointers[0], piece), [&](int place, int rank) {
    if (first + rank >= k) return;
    const P before = parameters[place];
    old[first + rank] = before;
    parameters[place] = narrow<P>(step_to(S(wide(before)), alpha, directions[place]));
  });
}

template <class Word>
__global__ void __launch_bounds__(kMaskThreads)
    undo_marked(const __grid_constant__ TensorBatch batch, const int64_t* ranks, int64_t k,
                const Word* old) {
  const Piece piece = piece_of(batch, blockIdx.x);
  const void* const* const pointers = batch.pointers + 2 * piece.tensor;
  Word* const parameters = static_cast<Word*>(const_cast<void*>(pointers[1])) + piece.offset;
  const int64_t first = ranks[batch.chunks_before + blockIdx.x];
  for_marked(word_of(pointers[0], piece), [&](int place, int rank) {
    if (first + rank < k) parameters[place] = old[first + rank];
  });
}

// Where the values of each tensor begin, none beyond K: one block.
__global__ void __launch_bounds__(kMaskThreads)
    scan_counts(const int64_t* counts, int64_t L, int64_t K, int64_t* starts) {
  // No count is negative or more than K, so that the sums do not overflow.
  for (int64_t l = threadIdx.x; l < L; l += kMaskThreads)
    starts[l] = max(int64_t(0), min(K, counts[l]));
  __syncthreads();
  scan_in_place<kMaskThreads>(starts, L);
  __syncthreads();
  for (int64_t l = threadIdx.x; l <= L; l += kMaskThreads) starts[l] = min(K, starts[l]);
}

// A thread per value; a batch writes those of its tensors.
template <class Word, class Index>
__global__ void __launch_bounds__(kMaskThreads)
    write_values(const __grid_constant__ TensorBatch batch, const int64_t* starts,
                 const Index* indices, const Word* values, int64_t K) {
  const int64_t i = int64_t(blockIdx.x) * kMaskThreads + threadIdx.x;
  if (i >= K || i < starts[batch.tag[0]]) return;
  int low = 0, high = batch.count;  // the last tensor whose values begin at or before this one
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (starts[batch.tag[middle]] <= i ? low : high) = middle;
  }
  const int64_t at = indices[i];
  if (i >= starts[batch.tag[low] + 1] || at < 0 || at >= batch.size[low]) return;
  static_cast<Word*>(const_cast<void*>(batch.pointers[low]))[at] = values[i];
}

// Batches of the tensors: the mask's pointer, then those that fill(l, pointers) names.
template <class Fill, class Launch>
cudaError_t over(const MaskOf& m, int more, const Fill& fill, const Launch& launch) {
  int64_t word = 0;
  return in_batches(
      m.L, 1 + more, kMaskChunk, [&](int64_t l) { return m.sizes[l]; }, [](int64_t) { return 0; },
      [&](int64_t l, const void** pointers, int64_t& tag) {
        pointers[0] = m.mask + word;
        fill(l, pointers + 1);
        tag = l;
        word += (m.sizes[l] + 63) / 64;
      },
      [&](const TensorBatch& batch, int) { return launch(batch, dim3(unsigned(batch.chunks()))); });
}

int64_t chunks_of(const MaskOf& m) {
  int64_t chunks = 0;
  for (int64_t l = 0; l < m.L; ++l) chunks += (m.sizes[l] + kMaskChunk - 1) / kMaskChunk;
  return chunks;
}

constexpr auto kNothing = [](int64_t, const void**) {};

// ranks[c] = marked elements before chunk c, [chunks + 1].
cudaError_t rank_chunks(const MaskOf& m, int64_t* ranks, cudaStream_t stream) {
  const cudaError_t error = over(m, 0, kNothing, [&](const TensorBatch& batch, dim3 blocks) {
    return launch(count_marked, blocks, kMaskThreads, 0, stream, batch, ranks);
  });
  if (error != cudaSuccess) return error;
  return launch(scan_marked, dim3(1), kMaskThreads, 0, stream, ranks, chunks_of(m));
}

// Calls f(an unsigned integer of the size).
template <class F>
cudaError_t with_word(int size, const F& f) {
  switch (size) {
    case 2:
      return f(uint16_t{});
    case 4:
      return f(uint32_t{});
    default:
      return f(uint64_t{});
  }
}

}  // namespace

int64_t mask_scratch_bytes(const MaskOf& m) { return (chunks_of(m) + 1) * 8; }

cudaError_t mask_bytes(const MaskOf& m, void* const* out, cudaStream_t stream) {
  return over(
      m, 1, [&](int64_t l, const void** pointers) { pointers[0] = out[l]; },
      [&](const TensorBatch& batch, dim3 blocks) {
        return launch(write_bytes, blocks, kMaskThreads, 0, stream, batch);
      });
}

cudaError_t mask_indices(const MaskOf& m, int index_size, int64_t k, void* indices, int64_t* counts,
                         void* scratch, cudaStream_t stream) {
  int64_t* const ranks = static_cast<int64_t*>(scratch);
  cudaError_t error = rank_chunks(m, ranks, stream);
  if (error != cudaSuccess) return error;
  error = cudaMemsetAsync(counts, 0, size_t(m.L) * 8, stream);  // tensors may be empty
  if (error != cudaSuccess) return error;
  return over(m, 0, kNothing, [&](const TensorBatch& batch, dim3 blocks) {
    static_assert(TensorBatch::kTensors <= 64);
    const cudaError_t failed =
        launch(count_per_tensor, dim3(1), 64, 0, stream, batch, ranks, k, counts);
    if (failed != cudaSuccess) return failed;
    if (index_size == 4)
      return launch(list_indices<int32_t>, blocks, kMaskThreads, 0, stream, batch, ranks, k,
                    static_cast<int32_t*>(indices));
    return launch(list_indices<int64_t>, blocks, kMaskThreads, 0, stream, batch, ranks, k,
                  static_cast<int64_t*>(indices));
  });
}

cudaError_t perturb(const MaskOf& m, DType parameter, DType direction, void* const* parameters,
                    const void* const* directions, double alpha, int64_t k, void* old,
                    void* scratch, cudaStream_t stream) {
  int64_t* const ranks = static_cast<int64_t*>(scratch);
  const cudaError_t error = rank_chunks(m, ranks, stream);
  if (error != cudaSuccess) return error;
  const auto fill = [&](int64_t l, const void** pointers) {
    pointers[0] = parameters[l], pointers[1] = directions[l];
  };
  return over(m, 2, fill, [&](const TensorBatch& batch, dim3 blocks) {
    return with_element(parameter, [&](auto p) {
      using P = decltype(p);
      const auto run = [&](auto step) {
        return launch(perturb_marked<P, decltype(step)>, blocks, kMaskThreads, 0, stream, batch,
                      ranks, k, step, static_cast<P*>(old));
      };
      return direction == DType::f64 ? run(alpha) : run(static_cast<float>(alpha));
    });
  });
}

cudaError_t perturb_undo(const MaskOf& m, int element_size, void* const* parameters, int64_t k,
                         const void* old, void* scratch, cudaStream_t stream) {
  int64_t* const ranks = static_cast<int64_t*>(scratch);
  const cudaError_t error = rank_chunks(m, ranks, stream);
  if (error != cudaSuccess) return error;
  const auto fill = [&](int64_t l, const void** pointers) { pointers[0] = parameters[l]; };
  return over(m, 1, fill, [&](const TensorBatch& batch, dim3 blocks) {
    return with_word(element_size, [&](auto word) {
      using Word = decltype(word);
      return launch(undo_marked<Word>, blocks, kMaskThreads, 0, stream, batch, ranks, k,
                    static_cast<const Word*>(old));
    });
  });
}

int64_t perturb_write_bytes(int64_t L) { return (L + 1) * 8; }

cudaError_t perturb_write(int64_t L, const int64_t* sizes, int element_size, int index_size,
                          void* const* parameters, const void* indices, const int64_t* counts,
                          const void* values, int64_t K, void* scratch, cudaStream_t stream) {
  int64_t* const starts = static_cast<int64_t*>(scratch);
  const cudaError_t error =
      launch(scan_counts, dim3(1), kMaskThreads, 0, stream, counts, L, K, starts);
  if (error != cudaSuccess) return error;
  const dim3 blocks(unsigned((K + kMaskThreads - 1) / kMaskThreads));
  return in_batches(
      L, 1, kMaskChunk, [&](int64_t l) { return sizes[l]; }, [](int64_t) { return 0; },
      [&](int64_t l, const void** pointers, int64_t& tag) { pointers[0] = parameters[l], tag = l; },
      [&](const TensorBatch& batch, int) {
        return with_word(element_size, [&](auto word) {
          using Word = decltype(word);
          const auto run = [&](auto index) {
            using Index = decltype(index);
            return launch(write_values<Word, Index>, blocks, kMaskThreads, 0, stream, batch, starts,
                          static_cast<const Index*>(indices), static_cast<const Word*>(values), K);
          };
          return index_size == 4 ? run(int32_t{}) : run(int64_t{});
        });
      });
}

}  // namespace fastforget::cuda
