// Sums, ranks and wide loads by the threads of a block together.
#pragma once

#include "ptx.cuh"

namespace fastforget::cuda {

// The sum over a warp, in an order that is always the same; every lane gets it.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffff, value, lanes);
  return value;
}

// The sum of the values of the threads before this one, and of all of them. Every thread calls.
template <int kThreads, class T>
__device__ T block_scan(T value, T& total) {
  constexpr int kWarps = kThreads / 32;
  SHARED(T, sums, [kWarps]);
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  T upto = value;
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const T below = __shfl_up_sync(0xffffffff, upto, unsigned(lanes));
    if (lane >= lanes) upto += below;
  }
  __syncthreads();  // the sums of the call before have been read
  if (lane == 31) sums[warp] = upto;
  __syncthreads();
  T before = 0;
  total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += sums[w];
    total += sums[w];
  }
  return before + upto - value;
}

// values[i] becomes the sum of those before it, values[count] that of all: one block, which waits
// for memory once for every eight values a thread.
template <int kThreads>
__device__ void scan_in_place(int64_t* values, int64_t count) {
  constexpr int kMine = 8;
  int64_t before = 0;
  for (int64_t first = 0; first < count; first += kMine * kThreads) {
    const int64_t at = first + kMine * int64_t(threadIdx.x);
    int64_t mine[kMine], sum = 0, total;
#pragma unroll
    for (int i = 0; i < kMine; ++i) mine[i] = at + i < count ? values[at + i] : 0;
#pragma unroll
    for (int i = 0; i < kMine; ++i) sum += mine[i];
    int64_t rank = before + block_scan<kThreads>(sum, total);
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      if (at + i < count) values[at + i] = rank;
      rank += mine[i];
    }
    before += total;
  }
  if (threadIdx.x == 0) values[count] = before;
}

// Eight elements, loaded together where all are there and `vectors` says that they are aligned to
// 16 bytes; those beyond `count` are zero.
template <class E>
struct alignas(sizeof(E) == 1 ? 8 : 16) Eight {
  E values[8];
};
template <class E>
__device__ __forceinline__ Eight<E> load_eight(const E* from, int64_t count, bool vectors) {
  if (vectors && count >= 8) return *reinterpret_cast<const Eight<E>*>(from);
  Eight<E> eight{};
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (i < count) eight.values[i] = from[i];
  return eight;
}

__device__ __forceinline__ bool on_16_bytes(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

}  // namespace fastforget::cuda
