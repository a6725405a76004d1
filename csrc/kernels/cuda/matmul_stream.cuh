// The matrix kernel on tensor cores for operands that can be copied 16 bytes at a time; see
// fisher_matmul.cu for what it reads and what bounds it.
//
// Tiles are copied into shared memory asynchronously, two steps ahead of their use. What a step
// needs is worked out before the first: a thread's addresses, and the layouts, which are template
// parameters. The loop has less than five instructions per matrix product (make cuda counts them);
// the reads of shared memory bound it then.
#pragma once

#include "matmul_sums.cuh"

namespace fastforget::cuda {

// What a thread copies of the tile of every step. kFast: features are neighbours, not positions.
template <class T, bool kFast>
class Stream {
 public:
  using E = typename T::E;

  // Of features [first, first + T::kFeatures) of a convolution group.
  __device__ __forceinline__ Stream(const Operand& x, int64_t group, int first) {
    const int row = int(threadIdx.x) / kRow, near = int(threadIdx.x) % kRow * kTogether;
    const int feature = first + (kFast ? near : row);
    shared_ = row * (kFast ? T::kWide : T::kLong) + near;
    position_ = kFast ? row : near;
    features_ = x.features - feature;
    bytes_ = clipped(features_);
    start_ = reinterpret_cast<const char*>(static_cast<const E*>(x.data) + group * x.group_stride +
                                           int64_t(feature) * x.feature_stride +
                                           position_ * x.position_stride);
    sample_ = x.sample_stride * int64_t(sizeof(E));
    row_ = (kFast ? x.position_stride : int64_t(x.feature_stride)) * kApart * int64_t(sizeof(E));
    step_ = x.position_stride * T::kPositions * int64_t(sizeof(E));
  }

  __device__ __forceinline__ void go_to(int n) { at_ = start_ + n * sample_; }

  // Starts to copy the next positions of the sample, of which `left` are there, and zeros beyond.
  __device__ __forceinline__ void copy(E* tile, int left) {
    const char* from = at_;
#pragma unroll
    for (int c = 0; c < kCopies; ++c, from += row_) {
      const int valid = kFast ? (position_ + c * kApart < left ? bytes_ : 0)
                              : (features_ > c * kApart ? clipped(left - position_) : 0);
      copy_async<16>(tile + shared_ + c * kApart * (kFast ? T::kWide : T::kLong), from, valid);
    }
    at_ += step_;
  }

 private:
  static constexpr int kTogether = T::kTogether;
  static constexpr int kRow = (kFast ? T::kFeatures : T::kPositions) / kTogether;
  static constexpr int kApart = T::kThreads / kRow;  // rows between two copies of a thread
  static constexpr int kCopies = T::kFeatures * T::kPositions / kTogether / T::kThreads;
  static_assert(kCopies > 0 && kApart * kRow == T::kThreads);

  // The bytes of a copy where `left` elements are there.
  static __device__ __forceinline__ int clipped(int left) {
    return (left < 0 ? 0 : left < kTogether ? left : kTogether) * int(sizeof(E));
  }

  const char *start_, *at_;
  int64_t sample_, row_, step_;               // bytes
  int shared_, position_, features_, bytes_;  // elements; bytes
};

template <class C, bool kA, bool kB>
__global__ void __launch_bounds__(kMatmulThreads)
    stream_kernel(const __grid_constant__ MatmulProblem p) {
  using E = typename C::E;
  E* const tiles = static_cast<E*>(dynamic_shared());
  E* const end = tiles + C::kStages * C::kTiles;
  float* const second = reinterpret_cast<float*>(end) + threadIdx.x;
  const Share s = share_of<C::kRows, C::kColumns>(p);
  const float* const weights = static_cast<const float*>(p.weights) + s.g * p.batch;
  const int positions = int(p.grad.positions), last = int(positions ? s.last : s.first);
  const auto weighty = [&](int n) {
    while (n < last && weights[n] == 0) ++n;
    return n;
  };
  const auto following = [&](E* tile) {
    return tile + C::kTiles == end ? tiles : tile + C::kTiles;
  };

  Stream<typename C::A, kA> a(p.grad, s.group, s.o);
  Stream<typename C::B, kB> b(p.input, s.group, s.i);
  int n = weighty(int(s.first)), left = positions;  // of what is multiplied
  int ahead = n, ahead_left = positions;            // of what is copied
  E *tile = tiles, *to = tiles;
  a.go_to(ahead), b.go_to(ahead);
  const auto begin = [&] {
    if (ahead < last) {
      a.copy(to, ahead_left), b.copy(to + C::A::kSize, ahead_left);
      ahead_left -= C::kPositions;
      if (ahead_left <= 0) {
        ahead = weighty(ahead + 1), ahead_left = positions;
        a.go_to(ahead), b.go_to(ahead);
      }
    }
    to = following(to);
    copy_commit();
  };
  for (int stage = 0; stage < C::kStages - 1; ++stage) begin();

  TensorSums<C> sums;
  const int a_start = once(C::A::template lane_start<kA, false>(sums.row));
  const int b_start = once(C::A::kSize + C::B::template lane_start<kB, true>(sums.column));
  int until_kept = kCutOff<C>;
  const auto finish_copies = [&](E* tile) {
    copy_wait<C::kStages - 2>();
    C::A::template round<16, kA>(tile);
    C::B::template round<16, kB>(tile + C::A::kSize);
    __syncthreads();
  };
  finish_copies(tile);
  while (n < last) {
    begin();
#pragma unroll
    for (int k = 0; k < C::kPositions; k += C::kStep)
      if (k < left) {
        typename TensorSums<C>::Fragments of;
        C::A::template fragments<kA, false>(of.a, tile + a_start, k);
        C::B::template fragments<kB, true>(of.b, tile + b_start, k);
        sums.multiply_step(of);
      }
    left -= C::kPositions, until_kept -= C::kPositions;
    if (left <= 0) {
      sums.end_sample(weights[n], second);
      n = weighty(n + 1), left = positions, until_kept = kCutOff<C>;
    } else if (until_kept == 0) {
      sums.keep(second);
      until_kept = kCutOff<C>;
    }
    tile = following(tile);
    finish_copies(tile);
  }
  sums.write(p, s, [&](int column) { return s.i + column < p.I ? s.i + column : -1; });
}

}  // namespace fastforget::cuda
