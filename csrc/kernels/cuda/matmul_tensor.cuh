// The matrix kernel on tensor cores for operands of which one cannot be copied 16 bytes at a time:
// patches of convolutions, and what is not aligned. What can be copied asynchronously is; the rest
// passes through registers. See matmul_stream.cuh for the others.
#pragma once

#include "matmul_sums.cuh"

namespace fastforget::cuda {

template <class C>
__global__ void __launch_bounds__(kMatmulThreads)
    tensor_kernel(const __grid_constant__ MatmulProblem p) {
  using E = typename C::E;
  E* const tiles = static_cast<E*>(dynamic_shared());
  Column* const columns = reinterpret_cast<Column*>(tiles + C::kStages * C::kTiles);
  float* const second = reinterpret_cast<float*>(columns + C::kColumns) + threadIdx.x;
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
  TensorSums<C> sums;
  const auto finish_copies = [&](int stage) {
    copy_wait<C::kStages - 2>();
    C::A::round(tiles + stage * C::kTiles, p.grad);
    C::B::round(tiles + stage * C::kTiles + C::A::kSize, p.input);
    __syncthreads();
  };
  finish_copies(0);
  for (int stage = 0; at.valid(); at.advance()) {
    const int next = (stage + C::kStages - 1) % C::kStages;
    begin(ahead, next);
    const E* const a_tile = tiles + stage * C::kTiles;
    const E* const b_tile = a_tile + C::A::kSize;
#pragma unroll
    for (int k = 0; k < C::kPositions; k += C::kStep) {
      if (at.k + k >= p.grad.positions) break;
      typename TensorSums<C>::Fragments of;
      C::A::template any_fragments<false>(of.a, a_tile, p.grad.features_fast, sums.row, k);
      C::B::template any_fragments<true>(of.b, b_tile, p.input.features_fast, sums.column, k);
      sums.multiply_step(of);
    }
    finish(ahead, next);
    if (at.ends_sample())
      sums.end_sample(weights[at.n], second);
    else if ((at.k + C::kPositions) % kCutOff<C> == 0)
      sums.keep(second);
    ahead.advance();
    stage = (stage + 1) % C::kStages;
    finish_copies(stage);
  }
  sums.write(p, s, [&](int column) { return columns[column].target; });
}

}  // namespace fastforget::cuda
