// What the two kernels on tensor cores do with tiles in shared memory: the warps of a block form a
// grid, each with kM x kN products of 16 x 8, and every thread keeps its share of the sums.
#pragma once

#include <type_traits>

#include "matmul_start.cuh"
#include "partials.cuh"
#include "tile.cuh"

namespace fastforget::cuda {

// The shape of a block's tile; kGradient: the sums of c_n are wanted beside those of its square.
template <class E_, int kRows_, int kColumns_, int kWarpRows_, bool kGradient_>
struct TensorTile {
  using E = E_;
  static constexpr int kRows = kRows_, kColumns = kColumns_, kWarpRows = kWarpRows_;
  static constexpr bool kGradient = kGradient_;
  static constexpr int kStep = sizeof(E) == 2 ? 16 : 8, kPositions = 2 * kStep, kStages = 3;
  static constexpr int kWarpColumns = kMatmulWarps / kWarpRows;
  static constexpr int kM = kRows / kWarpRows / 16, kN = kColumns / kWarpColumns / 8;
  static_assert(kN % 2 == 0);
  using A = Tile<E, kRows, kPositions, kMatmulThreads>;
  using B = Tile<E, kColumns, kPositions, kMatmulThreads>;
  static constexpr int kTiles = A::kSize + B::kSize;
  static constexpr size_t kTileBytes = kStages * kTiles * sizeof(E);
  // Of the second sums.
  static constexpr size_t kKeptBytes = size_t(kRows) * kColumns * sizeof(float);
};

template <class E>
__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4],
                                         const unsigned (&b)[2]) {
  if constexpr (std::is_same_v<E, Bf16>)
    mma_bf16(d, a, b);
  else if constexpr (std::is_same_v<E, F16>)
    mma_f16(d, a, b);
  else
    mma_tf32(d, a, b);
}

// A thread's sums: of the sample at hand, and the results so far.
template <class C>
struct TensorSums {
  using E = typename C::E;
  float c[C::kM][C::kN][4] = {}, fisher[C::kM][C::kN][4] = {};
  float gradient[C::kGradient ? C::kM : 1][C::kGradient ? C::kN : 1][4] = {};
  const int row = threadIdx.x / 32 / C::kWarpColumns * C::kM * 16;
  const int column = threadIdx.x / 32 % C::kWarpColumns * C::kN * 8;
  bool kept = false;

  // Calls f(m, n, j) for every sum.
  template <class F>
  static __device__ __forceinline__ void each(const F& f) {
#pragma unroll
    for (int m = 0; m < C::kM; ++m)
#pragma unroll
      for (int n = 0; n < C::kN; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) f(m, n, j);
  }

  // What the products of one step read of both tiles; see Tile::fragments.
  struct Fragments {
    unsigned a[C::kM][4], b[C::kN / 2][4];
  };

  __device__ __forceinline__ void multiply_step(const Fragments& of) {
#pragma unroll
    for (int n = 0; n < C::kN; ++n)
#pragma unroll
      for (int m = 0; m < C::kM; ++m)
        multiply<E>(c[m][n], of.a[m], {of.b[n / 2][n % 2 * 2], of.b[n / 2][n % 2 * 2 + 1]});
  }

  // Adds the sums of a long sample to second ones in shared memory, [sums][threads].
  __device__ __forceinline__ void keep(float* second) {
    each([&](int m, int n, int j) {
      float& to = second[((m * C::kN + n) * 4 + j) * kMatmulThreads];
      to = kept ? to + c[m][n][j] : c[m][n][j];
      c[m][n][j] = 0;
    });
    kept = true;
  }

  __device__ __forceinline__ void end_sample(float weight, const float* second) {
    if (kept)
      each([&](int m, int n, int j) {
        c[m][n][j] += second[((m * C::kN + n) * 4 + j) * kMatmulThreads];
      });
    kept = false;
    each([&](int m, int n, int j) {
      const float weighted = weight * c[m][n][j];
      fisher[m][n][j] = fmaf(weighted, c[m][n][j], fisher[m][n][j]);
      if constexpr (C::kGradient) gradient[m][n][j] += weighted;
      c[m][n][j] = 0;
    });
  }

  // `target` gives the place of a column of the tile in a row of the result, -1 for none.
  template <class F>
  __device__ __forceinline__ void write(const MatmulProblem& p, const Share& s,
                                        const F& target) const {
    const int lane = threadIdx.x % 32;
    const int64_t base = s.split * p.split_stride + s.g * p.group_stride + s.group * p.O * p.I;
    each([&](int m, int n, int j) {
      const int64_t o = s.o + row + C::A::place(p.grad.features_fast, m, j / 2, lane / 4);
      const int to = target(column + 8 * n + lane % 4 * 2 + j % 2);
      if (o >= p.O || to < 0) return;
      store(p.fisher, base + o * p.I + to, fisher[m][n][j], p.overwrite);
      if constexpr (C::kGradient)
        store(p.gradient, base + o * p.I + to, gradient[m][n][j], p.overwrite);
    });
  }
};

template <class C>
constexpr int kCutOff = int(cut_off(sizeof(typename C::E)));

}  // namespace fastforget::cuda
