// Lists of tensors as kernel parameters, a few dozen at a time: nothing has to be copied to the
// device first, so launches need no memory of their own and can be captured in a graph.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ptx.cuh"

namespace fastforget::cuda {

// Tensors of one element type, cut into chunks; chunk c of a launch is block c.
struct TensorBatch {
  static constexpr int kTensors = 48, kPointers = 288;  // all in all less than 4 KB

  int count = 0, per_tensor = 1;      // tensors, and pointers of each
  int64_t chunk_size = 0;             // elements
  int64_t chunks_before = 0;          // of the list, before this launch
  int64_t first_chunk[kTensors + 1];  // of each tensor, within the launch
  int64_t size[kTensors];             // elements
  int64_t tag[kTensors];              // what the operation wants to know of a tensor
  const void* pointers[kPointers];    // [count, per_tensor]

  int64_t chunks() const { return count ? first_chunk[count] : 0; }
};
static_assert(sizeof(TensorBatch) < 4000);

// The part of a tensor that a block works on.
struct Piece {
  int tensor;
  int64_t offset, size;
};

__device__ __forceinline__ Piece piece_of(const TensorBatch& batch, int64_t chunk) {
  int low = 0, high = batch.count;  // the last tensor that begins at or before the chunk
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (batch.first_chunk[middle] <= chunk ? low : high) = middle;
  }
  const int64_t offset = (chunk - batch.first_chunk[low]) * batch.chunk_size;
  const int64_t left = batch.size[low] - offset;
  return {low, offset, left < batch.chunk_size ? left : batch.chunk_size};
}

// Calls launch(batch) for batches of the tensors [0, count), those without elements left out.
// fill(l, pointers, tag) names a tensor's; dtypes may differ, a batch has one.
template <class Size, class Type, class Fill, class Launch>
cudaError_t in_batches(int64_t count, int per_tensor, int64_t chunk_size, const Size& size,
                       const Type& dtype, const Fill& fill, const Launch& launch) {
  if (per_tensor > TensorBatch::kPointers) return cudaErrorInvalidValue;
  const int room = std::min(TensorBatch::kTensors, TensorBatch::kPointers / per_tensor);
  TensorBatch batch;
  batch.per_tensor = per_tensor, batch.chunk_size = chunk_size;
  const auto flush = [&](int64_t l) -> cudaError_t {
    if (batch.count == 0) return cudaSuccess;
    const cudaError_t error = launch(batch, dtype(l));
    batch.chunks_before += batch.chunks(), batch.count = 0;
    return error;
  };
  int64_t last = -1;
  for (int64_t l = 0; l < count; ++l) {
    if (size(l) == 0) continue;
    if (batch.count == room || (last >= 0 && dtype(l) != dtype(last)))
      if (const cudaError_t error = flush(last); error != cudaSuccess) return error;
    const int at = batch.count++;
    if (at == 0) batch.first_chunk[0] = 0;
    batch.first_chunk[at + 1] = batch.first_chunk[at] + (size(l) + chunk_size - 1) / chunk_size;
    batch.size[at] = size(l);
    fill(l, batch.pointers + at * per_tensor, batch.tag[at]);
    last = l;
  }
  return flush(last);
}

}  // namespace fastforget::cuda
