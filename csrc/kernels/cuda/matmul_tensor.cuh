// The matrix kernel on tensor cores, for half types and tf32; see fisher_matmul.cu for what it
// reads and what bounds it.
//
// The warps of a block form a grid, each with kM x kN products of 16 x 8. Tiles are copied into
// shared memory asynchronously, two steps ahead of their use.
#pragma once

#include <type_traits>

#include "matmul_problem.cuh"
#include "partials.cuh"

namespace fastforget::cuda {

// The shape of a block's tile. Where kCopied, both operands are copied asynchronously and nothing
// waits in registers.
template <class E_, int kRows_, int kColumns_, int kWarpRows_, bool kGradient_, bool kCopied_>
struct TensorTile {
  using E = E_;
  static constexpr int kRows = kRows_, kColumns = kColumns_, kWarpRows = kWarpRows_;
  static constexpr bool kGradient = kGradient_, kCopied = kCopied_;
  static constexpr int kStep = sizeof(E) == 2 ? 16 : 8, kPositions = 2 * kStep, kStages = 3;
  static constexpr int kWarpColumns = kMatmulWarps / kWarpRows;
  static constexpr int kM = kRows / kWarpRows / 16, kN = kColumns / kWarpColumns / 8;
  static_assert(kN % 2 == 0);
  using A = Tile<E, kRows, kPositions, kMatmulThreads, kCopied>;
  using B = Tile<E, kColumns, kPositions, kMatmulThreads, kCopied>;
  static constexpr int kTiles = A::kSize + B::kSize;
  static constexpr size_t kShared = kStages * kTiles * sizeof(E) + kColumns * sizeof(Column);
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

template <class C>
__global__ void __launch_bounds__(kMatmulThreads)
    tensor_kernel(const __grid_constant__ MatmulProblem p) {
  using E = typename C::E;
  E* const tiles = static_cast<E*>(dynamic_shared());
  Column* const columns = reinterpret_cast<Column*>(tiles + C::kStages * C::kTiles);
  const Share s = share_of<C::kRows, C::kColumns>(p);
  columns_of(p, s.i, columns, C::kColumns);
  __syncthreads();
  const E* const grad = static_cast<const E*>(p.grad.data) + s.group * p.grad.group_stride;
  const E* const input = static_cast<const E*>(p.input.data) + s.group * p.input.group_stride;
  const float* const weights = static_cast<const float*>(p.weights) + s.g * p.batch;

  typename C::A::Staged staged_a;
  typename C::B::Staged staged_b;
  using At = Cursor<C::kPositions, float>;
  const auto begin = [&](const At& at, int stage) {
    E* const to = tiles + stage * C::kTiles;
    if (at.valid()) {
      C::A::begin(to, staged_a, p.grad, grad + at.n * p.grad.sample_stride, nullptr, s.o, at.k);
      C::B::begin(to + C::A::kSize, staged_b, p.input, input + at.n * p.input.sample_stride,
                  columns, s.i, at.k);
    }
    copy_commit();
  };
  const auto finish = [&](const At& at, int stage) {
    if (!at.valid()) return;
    E* const to = tiles + stage * C::kTiles;
    C::A::finish(to, staged_a, p.grad);
    C::B::finish(to + C::A::kSize, staged_b, p.input);
  };

  At at(weights, s.first, s.last, 0, p.grad.positions);
  At ahead = at;
  for (int stage = 0; stage < C::kStages - 1; ++stage) {
    begin(ahead, stage);
    finish(ahead, stage);
    ahead.advance();
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = warp / C::kWarpColumns * C::kM * 16, column = warp % C::kWarpColumns * C::kN * 8;
  float c[C::kM][C::kN][4] = {}, fisher[C::kM][C::kN][4] = {};
  float gradient[C::kGradient ? C::kM : 1][C::kGradient ? C::kN : 1][4] = {};
  copy_wait<C::kStages - 2>();
  __syncthreads();
  for (int stage = 0; at.valid(); at.advance()) {
    const int next = (stage + C::kStages - 1) % C::kStages;
    begin(ahead, next);
    const E* const a_tile = tiles + stage * C::kTiles;
    const E* const b_tile = a_tile + C::A::kSize;
#pragma unroll
    for (int k = 0; k < C::kPositions; k += C::kStep) {
      if (at.k + k >= p.grad.positions) break;
      unsigned a[C::kM][4];
#pragma unroll
      for (int m = 0; m < C::kM; ++m)
        C::A::fragment(a[m], a_tile, p.grad.features_fast, row + 16 * m, k);
#pragma unroll
      for (int n = 0; n < C::kN; n += 2) {
        unsigned b[4];
        C::B::fragment(b, b_tile, p.input.features_fast, column + 8 * n, k);
#pragma unroll
        for (int m = 0; m < C::kM; ++m) {
          multiply<E>(c[m][n], a[m], {b[0], b[2]});
          multiply<E>(c[m][n + 1], a[m], {b[1], b[3]});
        }
      }
    }
    finish(ahead, next);
    if (at.ends_sample()) {
      const float weight = weights[at.n];
#pragma unroll
      for (int m = 0; m < C::kM; ++m)
#pragma unroll
        for (int n = 0; n < C::kN; ++n)
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const float weighted = weight * c[m][n][j];
            fisher[m][n][j] = fmaf(weighted, c[m][n][j], fisher[m][n][j]);
            if constexpr (C::kGradient) gradient[m][n][j] += weighted;
            c[m][n][j] = 0;
          }
    }
    ahead.advance();
    copy_wait<C::kStages - 2>();
    __syncthreads();
    stage = (stage + 1) % C::kStages;
  }
  const int64_t base = s.split * p.split_stride + s.g * p.group_stride + s.group * p.O * p.I;
#pragma unroll
  for (int m = 0; m < C::kM; ++m)
#pragma unroll
    for (int n = 0; n < C::kN; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t o = s.o + row + 16 * m + lane / 4 + j / 2 * 8;
        const Column to = columns[column + 8 * n + lane % 4 * 2 + j % 2];
        if (o >= p.O || to.target < 0) continue;
        store(p.fisher, base + o * p.I + to.target, fisher[m][n][j], p.overwrite);
        if constexpr (C::kGradient)
          store(p.gradient, base + o * p.I + to.target, gradient[m][n][j], p.overwrite);
      }
}

}  // namespace fastforget::cuda
