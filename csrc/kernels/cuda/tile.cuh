// Tiles of matrix operands in shared memory: how they get there, and from there into the registers
// of tensor cores.
#pragma once

#include <type_traits>

#include "operand.cuh"

namespace fastforget::cuda {

// Neighbours that are read and written together.
template <class E, int kCount>
struct alignas(sizeof(E) * kCount) Pack {
  E values[kCount];
};

// A tile of elements as they are neighbours in memory: [positions][features] where `fast`, else
// [features][positions], each row with a gap against bank conflicts. Floats are rounded to tf32
// once they are there.
template <class E_, int kFeatures_, int kPositions_, int kThreads_>
struct Tile {
  using E = E_;
  static constexpr int kFeatures = kFeatures_, kPositions = kPositions_, kThreads = kThreads_;
  static constexpr int kTogether = 16 / int(sizeof(E));
  static constexpr int kWide = kFeatures + (sizeof(E) == 4 ? 8 : kTogether),
                       kLong = kPositions + kTogether;
  static constexpr int kSize =
      kWide * kPositions > kLong* kFeatures ? kWide * kPositions : kLong * kFeatures;
  using Staged = Elements<E, kFeatures, kPositions, kThreads>;

  // Starts to load a tile. What cannot be copied asynchronously waits in registers for `finish`.
  static __device__ __forceinline__ void begin(E* tile, Staged& staged, const Operand& x,
                                               const E* sample, const Column* columns, int first,
                                               int64_t k) {
    if (x.vector_bytes == 0) return staged.load(x, sample, columns, first, k);
    with_copies(x, [&](auto bytes, auto fast) {
      copy<bytes.value, fast.value>(tile, x, sample, first, k);
    });
  }

  static __device__ __forceinline__ void finish(E* tile, const Staged& staged, const Operand& x) {
    if (x.vector_bytes) return;
    own_elements<kFeatures, kPositions, kThreads>(x.features_fast, [&](int j, int f, int t) {
      tile[x.features_fast ? t * kWide + f : f * kLong + t] = rounded(staged.values[j]);
    });
  }

  // Rounds what the thread has copied asynchronously, and has waited for.
  static __device__ __forceinline__ void round(E* tile, const Operand& x) {
    if (!kRounds || x.vector_bytes == 0) return;
    with_copies(x, [&](auto bytes, auto fast) { round<bytes.value, fast.value>(tile); });
  }
  template <int kBytes, bool kFast>
  static __device__ __forceinline__ void round(E* tile) {
    if constexpr (kRounds)
      own_copies<kBytes, kFast>(int(threadIdx.x), [&](int, int, int at) {
        using Copied = Pack<E, kBytes / int(sizeof(E))>;
        Copied copied = *reinterpret_cast<const Copied*>(tile + at);
        for (E& value : copied.values) value = rounded(value);
        *reinterpret_cast<Copied*>(tile + at) = copied;
      });
  }

  // Where a lane begins to read `fragments`, for the first of 16 features: see there.
  template <bool kFast, bool kPairs>
  static __device__ __forceinline__ int lane_start(int feature) {
    const int lane = threadIdx.x % 32, low = lane / 8 % 2, high = lane / 16, r = lane % 8;
    if constexpr (kRounds && kFast) return lane % 4 * kWide + feature + lane / 4 * (kPairs ? 1 : 2);
    const int f = feature + 8 * (kPairs ? high : low), t = kTogether * (kPairs ? low : high);
    return kFast ? (t + r) * kWide + f : (f + r) * kLong + t;
  }

  // kCount times 16 features at positions from k on, as registers of a warp's matrix product. They
  // are the A operand; or, where kPairs, twice the B operand: 0 and 1 hold eight features, 2 and 3
  // the others, since a product wants its registers side by side. `from` is the tile and the lane's
  // start.
  template <bool kFast, bool kPairs, int kCount>
  static __device__ __forceinline__ void fragments(unsigned (&out)[kCount][4], const E* from,
                                                   int k) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if constexpr (kRounds && kFast) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const E* const row = from + (k + half * 4) * kWide + 16 * i;
          if constexpr (kPairs) {
            out[i][half] = __float_as_uint(row[0]), out[i][2 + half] = __float_as_uint(row[8]);
          } else {
            const auto two = *reinterpret_cast<const Pack<E, 2>*>(row);
            out[i][2 * half] = __float_as_uint(two.values[0]);
            out[i][2 * half + 1] = __float_as_uint(two.values[1]);
          }
        }
      } else if constexpr (kFast) {
        load_matrices_transposed(out[i], from + k * kWide + 16 * i);
      } else {
        load_matrices(out[i], from + 16 * i * kLong + k);
      }
    }
  }

  // The same of 16 features from `feature` on, for a layout that only the call knows.
  template <bool kPairs, int kCount>
  static __device__ __forceinline__ void any_fragments(unsigned (&out)[kCount][4], const E* tile,
                                                       bool fast, int feature, int k) {
    if (fast)
      fragments<true, kPairs>(out, tile + lane_start<true, kPairs>(feature), k);
    else
      fragments<false, kPairs>(out, tile + lane_start<false, kPairs>(feature), k);
  }

  // The feature of the A operand that is number `at` of the first or second eight of sixteen.
  // Floats whose features are neighbours cannot be transposed on the way: a lane reads two.
  static __device__ __forceinline__ int place(bool fast, int sixteen, int eight, int at) {
    return 16 * sixteen + (kRounds && fast ? 2 * at + eight : 8 * eight + at);
  }

 private:
  static constexpr bool kRounds = std::is_same_v<E, float>;

  // To nearest, ties away from zero, as far as tensor cores see: they ignore the last 13 bits.
  static __device__ __forceinline__ E rounded(E value) {
    if constexpr (kRounds) {
      const bool finite = fabsf(value) < __uint_as_float(0x7f800000);
      return finite ? __uint_as_float(__float_as_uint(value) + 0x1000) : value;
    } else {
      return value;
    }
  }

  // Calls f with how the operand is copied: bytes at a time, and whether features are neighbours.
  template <class F>
  static __device__ __forceinline__ void with_copies(const Operand& x, const F& f) {
    const auto with_bytes = [&](auto fast) {
      if (x.vector_bytes == 16)
        f(std::integral_constant<int, 16>{}, fast);
      else if (x.vector_bytes == 8)
        f(std::integral_constant<int, 8>{}, fast);
      else
        f(std::integral_constant<int, 4>{}, fast);
    };
    if (x.features_fast)
      with_bytes(std::true_type{});
    else
      with_bytes(std::false_type{});
  }

  // Calls f(feature, position, place in the tile) for what a thread copies, kBytes at a time.
  template <int kBytes, bool kFast, class F>
  static __device__ __forceinline__ void own_copies(int thread, const F& f) {
    constexpr int kEach = kBytes / int(sizeof(E));
    constexpr int kRow = (kFast ? kFeatures : kPositions) / kEach;
#pragma unroll
    for (int c = 0; c < kFeatures * kPositions / kEach / kThreads; ++c) {
      const int index = thread + c * kThreads;
      const int next_to = index % kRow * kEach, row = index / kRow;
      if (kFast)
        f(next_to, row, row * kWide + next_to);
      else
        f(row, next_to, row * kLong + next_to);
    }
  }

  template <int kBytes, bool kFast>
  static __device__ __forceinline__ void copy(E* tile, const Operand& x, const E* sample, int first,
                                              int64_t k) {
    constexpr int kEach = kBytes / int(sizeof(E));
    own_copies<kBytes, kFast>(once(int(threadIdx.x)), [&](int f, int t, int at) {
      const int64_t left = kFast ? x.features - first - f : x.positions - k - t;
      const bool none = left <= 0 || first + f >= x.features || k + t >= x.positions;
      const int count = none ? 0 : int(left < kEach ? left : kEach);
      const E* from =
          none ? sample : sample + (first + f) * x.feature_stride + (k + t) * x.position_stride;
      copy_async<kBytes>(tile + at, from, count * int(sizeof(E)));
    });
  }
};

}  // namespace fastforget::cuda
