// Where the marked elements of a mask come in the order of all, the mask as bytes, and the places
// of the marked elements; see marked.cuh for how chunks are worked on. The mask as bytes is a
// streaming write of sixteen elements a thread, bound by memory.
#include "mask.h"

#include "marked.cuh"

namespace fastforget::cuda {
namespace {

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

// No pointers beside that of the mask.
constexpr auto kMaskAlone = [](int64_t, const void**) {};

}  // namespace

cudaError_t rank_chunks(const BitMask& m, int64_t* ranks, cudaStream_t stream) {
  const cudaError_t error =
      in_mask_batches(m, 0, kMaskAlone, [&](const TensorBatch& batch, dim3 blocks) {
        return launch(count_marked, blocks, kMaskThreads, 0, stream, batch, ranks);
      });
  if (error != cudaSuccess) return error;
  return launch(scan_marked, dim3(1), kMaskThreads, 0, stream, ranks, chunks_of(m));
}

int64_t mask_scratch_bytes(const BitMask& m) { return (chunks_of(m) + 1) * 8; }

cudaError_t mask_bytes(const BitMask& m, void* const* out, cudaStream_t stream) {
  return in_mask_batches(
      m, 1, [&](int64_t l, const void** pointers) { pointers[0] = out[l]; },
      [&](const TensorBatch& batch, dim3 blocks) {
        return launch(write_bytes, blocks, kMaskThreads, 0, stream, batch);
      });
}

cudaError_t mask_indices(const BitMask& m, int index_size, int64_t k, void* indices,
                         int64_t* counts, void* scratch, cudaStream_t stream) {
  int64_t* const ranks = static_cast<int64_t*>(scratch);
  cudaError_t error = rank_chunks(m, ranks, stream);
  if (error != cudaSuccess) return error;
  error = cudaMemsetAsync(counts, 0, size_t(m.L) * 8, stream);  // tensors may be empty
  if (error != cudaSuccess) return error;
  return in_mask_batches(m, 0, kMaskAlone, [&](const TensorBatch& batch, dim3 blocks) {
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

}  // namespace fastforget::cuda
