// The matrix kernel of fused multiply-adds in the type of the sums: float32 to the last digit,
// float64, and every type where T = 1; see fisher_matmul.cu for what it reads.
//
// A thread owns a square of the tile. Operands are widened on the way into shared memory,
// [positions][features], in two stages.
#pragma once

#include "matmul_problem.cuh"
#include "partials.cuh"

namespace fastforget::cuda {

// The shape of a block's tile. kFlat: T = 1, where (g a)^2 = g^2 a^2 makes one product over all
// samples of the squares, and samples take the place of positions.
template <class E_, int kTile_, bool kGradient_, bool kFlat_>
struct ExactTile {
  using E = E_;
  using S = Sum<E>;
  static constexpr bool kGradient = kGradient_, kFlat = kFlat_;
  static constexpr int kRows = kTile_, kColumns = kTile_, kPositions = 16, kSide = kTile_ / 16;
  static constexpr int kWide = kTile_ + 16 / int(sizeof(S));
  using Staged = Elements<E, kTile_, kPositions, kMatmulThreads>;
  static constexpr size_t kShared =
      2 * 2 * kPositions * kWide * sizeof(S) + kTile_ * sizeof(Column);
};

template <class C>
__global__ void __launch_bounds__(kMatmulThreads)
    exact_kernel(const __grid_constant__ MatmulProblem p) {
  using E = typename C::E;
  using S = typename C::S;
  constexpr int kSide = C::kSide, kHalf = C::kPositions * C::kWide;
  S* const tiles = static_cast<S*>(dynamic_shared());  // two stages of grad and input
  Column* const columns = reinterpret_cast<Column*>(tiles + 4 * kHalf);
  const Share s = share_of<C::kRows, C::kColumns>(p);
  columns_of(p, s.i, columns, C::kColumns);
  __syncthreads();
  const E* const grad = static_cast<const E*>(p.grad.data) + s.group * p.grad.group_stride;
  const E* const input = static_cast<const E*>(p.input.data) + s.group * p.input.group_stride;
  const S* const weights = static_cast<const S*>(p.weights) + s.g * p.batch;

  typename C::Staged staged_a, staged_b;
  using At = Cursor<C::kPositions, S>;
  const auto begin = [&](const At& at) {
    if (!at.valid()) return;
    staged_a.load(p.grad, grad + at.n * p.grad.sample_stride, nullptr, s.o, at.k);
    staged_b.load(p.input, input + at.n * p.input.sample_stride, columns, s.i, at.k);
  };
  const auto widened = [&](S* to, const typename C::Staged& staged, const Operand& x, const At& at,
                           bool weighted) {
    own_elements<C::kRows, C::kPositions, kMatmulThreads>(
        x.features_fast, [&](int j, int f, int t) {
          S value = wide(staged.values[j]);
          if constexpr (C::kFlat) {  // positions are samples; one without a weight does not count
            const S weight = at.k + t < at.positions ? weights[at.k + t] : S(0);
            value = p.power == 2 ? value * value : value;
            value = weight == 0 ? S(0) : weighted ? weight * value : value;
          }
          to[t * C::kWide + f] = value;
        });
  };
  const auto finish = [&](const At& at, int stage) {
    if (!at.valid()) return;
    S* const a = tiles + stage * 2 * kHalf;
    widened(a, staged_a, p.grad, at, false);
    widened(a + kHalf, staged_b, p.input, at, true);
  };

  At at = C::kFlat ? At(nullptr, 0, 1, s.first, s.last)
                   : At(weights, s.first, s.last, 0, p.grad.positions);
  At ahead = at;
  begin(ahead);
  finish(ahead, 0);
  ahead.advance();
  __syncthreads();
  const int y = threadIdx.x / 16, x = threadIdx.x % 16;
  S c[kSide][kSide] = {}, fisher[kSide][kSide] = {};
  S gradient[C::kGradient ? kSide : 1][C::kGradient ? kSide : 1] = {};
  for (int stage = 0; at.valid(); at.advance(), stage ^= 1) {
    begin(ahead);
    const S* const a_tile = tiles + stage * 2 * kHalf;
    const S* const b_tile = a_tile + kHalf;
#pragma unroll
    for (int k = 0; k < C::kPositions; ++k) {
      S a[kSide], b[kSide];
#pragma unroll
      for (int j = 0; j < kSide; ++j) a[j] = a_tile[k * C::kWide + y * kSide + j];
#pragma unroll
      for (int j = 0; j < kSide; ++j) b[j] = b_tile[k * C::kWide + x + 16 * j];
#pragma unroll
      for (int r = 0; r < kSide; ++r)
#pragma unroll
        for (int j = 0; j < kSide; ++j) c[r][j] = fma(a[r], b[j], c[r][j]);
    }
    finish(ahead, stage ^ 1);
    if (at.ends_sample()) {
      const S weight = C::kFlat ? S(1) : weights[at.n];
#pragma unroll
      for (int r = 0; r < kSide; ++r)
#pragma unroll
        for (int j = 0; j < kSide; ++j) {
          const S weighted = weight * c[r][j];
          fisher[r][j] = C::kFlat ? c[r][j] : fma(weighted, c[r][j], fisher[r][j]);
          if constexpr (C::kGradient) gradient[r][j] += weighted;
          c[r][j] = 0;
        }
    }
    ahead.advance();
    __syncthreads();
  }
  const int64_t base = s.split * p.split_stride + s.g * p.group_stride + s.group * p.O * p.I;
#pragma unroll
  for (int r = 0; r < kSide; ++r)
#pragma unroll
    for (int j = 0; j < kSide; ++j) {
      const int64_t o = s.o + y * kSide + r;
      const Column to = columns[x + 16 * j];
      if (o >= p.O || to.target < 0) continue;
      store(p.fisher, base + o * p.I + to.target, fisher[r][j], p.overwrite);
      if constexpr (C::kGradient)
        store(p.gradient, base + o * p.I + to.target, gradient[r][j], p.overwrite);
    }
}

}  // namespace fastforget::cuda
