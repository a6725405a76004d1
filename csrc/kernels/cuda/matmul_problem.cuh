// What both kernels of fisher_matmul.cu work on: the operands, a block's tile of the weight and
// share of the samples, and the order in which it goes through positions.
#pragma once

#include "operand.cuh"

namespace fastforget::cuda {

constexpr int kMatmulThreads = 256, kMatmulWarps = kMatmulThreads / 32;

// What a kernel needs to know.
struct MatmulProblem {
  Operand grad, input;
  int64_t batch, splits, O, I, groups;
  const void* weights;      // [G, batch]
  void *fisher, *gradient;  // [G, group_stride]
  int64_t group_stride, split_stride;
  bool overwrite;
  int power;  // flat: 1 or 2, else 0
};

// The tile of the weight and the share of the samples of a block.
struct Share {
  int o, i;
  int64_t group, g, split, first, last;
};

template <int kRows, int kColumns>
__device__ __forceinline__ Share share_of(const MatmulProblem& p) {
  const unsigned across = unsigned((p.I + kColumns - 1) / kColumns),
                 tiles = unsigned((p.O + kRows - 1) / kRows) * across, tile = blockIdx.x % tiles,
                 unit = blockIdx.x / tiles;
  Share s;
  s.i = int(tile % across) * kColumns, s.o = int(tile / across) * kRows;
  s.split = blockIdx.y;
  s.group = unit % unsigned(p.groups), s.g = unit / unsigned(p.groups);
  s.first = p.batch * s.split / p.splits, s.last = p.batch * (s.split + 1) / p.splits;
  return s;
}

// A step: positions [k, k + kPositions) of one sample that has a weight.
template <int kPositions, class S>
struct Cursor {
  const S* weights;  // null: all samples count
  int64_t last, positions, n, k;

  __device__ __forceinline__ Cursor(const S* weights, int64_t first, int64_t last, int64_t k,
                                    int64_t positions)
      : weights(weights), last(k < positions ? last : first), positions(positions), n(first), k(k) {
    skip();
  }
  __device__ __forceinline__ bool valid() const { return n < last; }
  __device__ __forceinline__ bool ends_sample() const { return k + kPositions >= positions; }
  __device__ __forceinline__ void advance() {
    k += kPositions;
    if (k < positions) return;
    k = 0, ++n;
    skip();
  }
  __device__ __forceinline__ void skip() {
    while (weights && n < last && weights[n] == 0) ++n;
  }
};

__device__ __forceinline__ void columns_of(const MatmulProblem& p, int i, Column* columns,
                                           int count) {
  for (int c = threadIdx.x; c < count; c += kMatmulThreads)
    columns[c] =
        p.input.patches ? column_of(p.input, i + c) : Column{0, 0, 0, 0, i + c < p.I ? i + c : -1};
}

}  // namespace fastforget::cuda
