// The scaled update of the marked elements of a list of tensors, its undoing, and writes at given
// places. See marked.cuh for what a block does and which bytes it moves. Writes at given places are
// a thread per value and bound by their scattered sectors.
#include "perturb.h"

#include "element.cuh"
#include "marked.cuh"

namespace fastforget::cuda {
namespace {

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
  // Clamped to [0, K], so that the sums do not overflow.
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

cudaError_t perturb(const BitMask& m, DType parameter, DType direction, void* const* parameters,
                    const void* const* directions, double alpha, int64_t k, void* old,
                    void* scratch, cudaStream_t stream) {
  int64_t* const ranks = static_cast<int64_t*>(scratch);
  const cudaError_t error = rank_chunks(m, ranks, stream);
  if (error != cudaSuccess) return error;
  const auto fill = [&](int64_t l, const void** pointers) {
    pointers[0] = parameters[l], pointers[1] = directions[l];
  };
  return in_mask_batches(m, 2, fill, [&](const TensorBatch& batch, dim3 blocks) {
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

cudaError_t perturb_undo(const BitMask& m, int element_size, void* const* parameters, int64_t k,
                         const void* old, void* scratch, cudaStream_t stream) {
  int64_t* const ranks = static_cast<int64_t*>(scratch);
  const cudaError_t error = rank_chunks(m, ranks, stream);
  if (error != cudaSuccess) return error;
  const auto fill = [&](int64_t l, const void** pointers) { pointers[0] = parameters[l]; };
  return in_mask_batches(m, 1, fill, [&](const TensorBatch& batch, dim3 blocks) {
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
