// How blocks of threads bring tiles of a matrix operand into shared memory: R features by K
// positions of one sample, from a strided matrix or from the patches of a convolution.
#pragma once

#include "../fisher.h"
#include "divisor.cuh"
#include "element.cuh"
#include "ptx.cuh"

namespace fastforget::cuda {

// A column of the implicit im2col matrix: a channel and a tap.
struct Column {
  int offset;   // elements from the position's input to the column's
  int d, h, w;  // from the position's coordinates
  int target;   // its place in a row of the result; -1: beyond the last column
};

// Features by positions of every sample: a strided matrix, or the patches of a convolution.
struct Operand {
  const void* data;
  int features, feature_stride;
  int64_t positions, position_stride, sample_stride, group_stride;
  // Consecutive features, not positions, are neighbours in memory, and in shared memory.
  bool features_fast;
  int vector_bytes;  // 16, 8 or 4 where neighbours can be copied together, else 0
  bool patches;
  Patches shape;
  Divisor width, height;  // of the positions that patches have
};

inline void set_patches(Operand& x, const Patches& p) {
  x.shape = p, x.width = Divisor(p.out[2]), x.height = Divisor(p.out[1]);
}

// The place of a column of features [first, ...) of an operand that has patches.
__device__ __forceinline__ Column column_of(const Operand& x, int feature) {
  const Patches& p = x.shape;
  const int taps = int(p.kernel[0] * p.kernel[1] * p.kernel[2]);
  if (feature >= x.features) return {0, 0, 0, 0, -1};
  // Neighbours in memory shall be neighbours in the tile: taps of one channel, or channels.
  const int channel = int(x.features_fast ? feature % p.channels : feature / taps);
  const int tap = int(x.features_fast ? feature / p.channels : feature % taps);
  const int w = int(tap % p.kernel[2] * p.dilation[2] - p.padding[2]);
  const int h = int(tap / p.kernel[2] % p.kernel[1] * p.dilation[1] - p.padding[1]);
  const int d = int(tap / (p.kernel[2] * p.kernel[1]) * p.dilation[0] - p.padding[0]);
  const int64_t offset =
      channel * p.in_stride[0] + d * p.in_stride[1] + h * p.in_stride[2] + w * p.in_stride[3];
  return {int(offset), d, h, w, channel * taps + tap};
}

// Where a position of a convolution's output begins to read its input.
struct Position {
  int offset, d, h, w;
};

__device__ __forceinline__ Position position_of(const Operand& x, int64_t position) {
  const Patches& p = x.shape;
  const unsigned at = unsigned(position);
  const unsigned row = x.width.divide(at), plane = x.height.divide(row);
  const int d = int(plane * p.stride[0]), h = int((row - plane * unsigned(p.out[1])) * p.stride[1]),
            w = int((at - row * unsigned(p.out[2])) * p.stride[2]);
  return {int(d * p.in_stride[1] + h * p.in_stride[2] + w * p.in_stride[3]), d, h, w};
}

__device__ __forceinline__ bool inside(const Patches& p, const Position& at, const Column& column) {
  return column.target >= 0 && unsigned(at.d + column.d) < unsigned(p.size[0]) &&
         unsigned(at.h + column.h) < unsigned(p.size[1]) &&
         unsigned(at.w + column.w) < unsigned(p.size[2]);
}

// Which elements of a tile [kFeatures, kPositions] a thread loads. Lanes run over what lies side by
// side in memory. Calls f(j, feature, position) for its j-th, with constant j once unrolled.
template <int kFeatures, int kPositions, int kThreads, class F>
__device__ __forceinline__ void own_elements(bool features_fast, const F& f) {
  static_assert(kFeatures % 32 == 0 && kPositions % (kThreads / 32) == 0);
  constexpr int kWarps = kThreads / 32, kCount = kFeatures * kPositions / kThreads;
  if (features_fast) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int j = 0; j < kCount; ++j)
      f(j, lane + 32 * (j % (kFeatures / 32)), warp + kWarps * (j / (kFeatures / 32)));
  } else {
    const int feature = int(threadIdx.x) / kPositions, position = int(threadIdx.x) % kPositions;
#pragma unroll
    for (int j = 0; j < kCount; ++j) f(j, feature + kThreads / kPositions * j, position);
  }
}

// One sample's tile of features [first, first + kFeatures) and positions [k, k + kPositions), read
// element by element into registers; zeros beyond the ends.
template <class E, int kFeatures, int kPositions, int kThreads>
struct Elements {
  static constexpr int kCount = kFeatures * kPositions / kThreads;
  E values[kCount];

  __device__ __forceinline__ void load(const Operand& x, const E* sample, const Column* columns,
                                       int first, int64_t k) {
    if (x.patches) {
      int known = -1;
      Position at{};
      own_elements<kFeatures, kPositions, kThreads>(x.features_fast, [&](int j, int f, int t) {
        // The same for many of a thread's elements.
        if (t != known) at = position_of(x, k + (known = t));
        const Column column = columns[f];
        values[j] = E{};
        if (k + t < x.positions && inside(x.shape, at, column))
          values[j] = sample[at.offset + column.offset];
      });
      return;
    }
    int known = -1;
    const E* at = sample;
    own_elements<kFeatures, kPositions, kThreads>(x.features_fast, [&](int j, int f, int t) {
      if (t != known) at = sample + (k + (known = t)) * x.position_stride;
      values[j] = E{};
      if (first + f < x.features && k + t < x.positions)
        values[j] = at[(first + f) * x.feature_stride];
    });
  }
};

}  // namespace fastforget::cuda
