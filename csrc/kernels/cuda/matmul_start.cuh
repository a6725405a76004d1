// How the kernels on tensor cores are started. Each type of element has a file of its own, so that
// they compile side by side.
#pragma once

#include "matmul_problem.cuh"

namespace fastforget::cuda {

// A block for each tile of the weight, convolution group and group of sample weights, which only
// the first dimension of a grid has room for.
inline int64_t blocks_of(int64_t O, int64_t I, int64_t rows, int64_t columns, int64_t groups) {
  return (O + rows - 1) / rows * ((I + columns - 1) / columns) * groups;
}

// These blocks, for each share of the samples.
inline dim3 grid_of(const MatmulProblem& p, int64_t rows, int64_t columns, int64_t G) {
  return dim3(unsigned(blocks_of(p.O, p.I, rows, columns, p.groups * G)), unsigned(p.splits));
}

// Tensor cores cut a sum off after every product instead of rounding it. After so many positions of
// a sample, c_n is added to a second sum outside of them, so that what is lost stays small.
constexpr int64_t cut_off(int64_t bytes_of_element) { return bytes_of_element == 2 ? 2048 : 1024; }

// Tiles are 128 x 128, 128 x 64 or 64 x 64; the first without a gradient, and for operands that are
// copied 16 bytes at a time.
template <class E>
cudaError_t start_tensor(const MatmulProblem&, int64_t rows, int64_t columns, int64_t G,
                         cudaStream_t);

}  // namespace fastforget::cuda
