// Starts the kernels on tensor cores for one type of element; see matmul_start.cuh.
#pragma once

#include "matmul_start.cuh"
#include "matmul_stream.cuh"
#include "matmul_tensor.cuh"

namespace fastforget::cuda {

template <class C>
cudaError_t start_stream_tile(const MatmulProblem& p, dim3 grid, cudaStream_t stream) {
  const bool a = p.grad.features_fast, b = p.input.features_fast;
  const auto kernel = a ? (b ? stream_kernel<C, true, true> : stream_kernel<C, true, false>)
                        : (b ? stream_kernel<C, false, true> : stream_kernel<C, false, false>);
  const size_t kept = p.grad.positions > kCutOff<C> ? C::kKeptBytes : 0;
  return launch(kernel, grid, kMatmulThreads, C::kTileBytes + kept, stream, p);
}

template <class C>
cudaError_t start_tensor_tile(const MatmulProblem& p, dim3 grid, cudaStream_t stream) {
  if (p.grad.vector_bytes == 16 && p.input.vector_bytes == 16)
    return start_stream_tile<C>(p, grid, stream);
  const size_t kept = p.grad.positions > kCutOff<C> ? C::kKeptBytes : 0;
  return launch(tensor_kernel<C>, grid, kMatmulThreads,
                C::kTileBytes + C::kColumns * sizeof(Column) + kept, stream, p);
}

template <class E>
cudaError_t start_tensor(const MatmulProblem& p, int64_t rows, int64_t columns, int64_t G,
                         cudaStream_t stream) {
  using Large = TensorTile<E, 128, 128, 2, false>;
  using Both = TensorTile<E, 128, 64, 4, true>;
  using Small = TensorTile<E, 64, 64, 2, true>;
  const dim3 grid = grid_of(p, rows, columns, G);
  if (columns == 128) return start_stream_tile<Large>(p, grid, stream);
  if (rows == 128) return start_tensor_tile<Both>(p, grid, stream);
  return start_tensor_tile<Small>(p, grid, stream);
}

}  // namespace fastforget::cuda
