// Convolutions with few rows per group, depthwise ones above all.
//
// A warp owns one row of one convolution group, for one group of sample weights and one share of
// the samples. Its lanes go over the positions of a sample and keep the sums of a few columns
// (taps) in registers; the warp adds them up, and lane j keeps the Fisher of column j. Grad and
// input come from memory once for every nine columns, most of it from L1: bound by memory for 3x3
// kernels, by load instructions beyond.
#include "block.cuh"
#include "fisher.h"
#include "operand.cuh"
#include "partials.cuh"

namespace fastforget::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kColumns = 9;

struct Problem {
  Operand input;
  const void *grad, *weights;
  int64_t grad_stride[3], grad_group_stride;  // n, t, o
  int64_t batch, splits, G, O, I, T, units;   // units: rows of all convolution groups
  void *fisher, *gradient;
  int64_t group_stride, split_stride;
  bool overwrite;
};

template <class E>
__global__ void __launch_bounds__(kThreads) direct_kernel(const __grid_constant__ Problem p) {
  using S = Sum<E>;
  const int64_t unit = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (unit >= p.units) return;
  const int lane = threadIdx.x % 32;
  const int64_t split = blockIdx.y, g = blockIdx.z, group = unit / p.O, o = unit % p.O;
  const int64_t first = p.batch * split / p.splits, last = p.batch * (split + 1) / p.splits;
  const S* const weights = static_cast<const S*>(p.weights) + g * p.batch;
  const E* const grad =
      static_cast<const E*>(p.grad) + group * p.grad_group_stride + o * p.grad_stride[2];
  const E* const input = static_cast<const E*>(p.input.data) + group * p.input.group_stride;
  const int64_t base = split * p.split_stride + g * p.group_stride + unit * p.I;
  for (int64_t i = 0; i < p.I; i += kColumns) {
    Column columns[kColumns];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) columns[j] = column_of(p.input, int(i) + j);
    S fisher = 0, gradient = 0;
    for (int64_t n = first; n < last; ++n) {
      const S weight = weights[n];
      if (weight == 0) continue;
      const E* const of_grad = grad + n * p.grad_stride[0];
      const E* const of_input = input + n * p.input.sample_stride;
      S sums[kColumns] = {};
      for (int64_t t = lane; t < p.T; t += 32) {
        const Position at = position_of(p.input, t);
        const S value = wide(of_grad[t * p.grad_stride[1]]);
#pragma unroll
        for (int j = 0; j < kColumns; ++j)
          if (inside(p.input.shape, at, columns[j]))
            sums[j] = fma(value, S(wide(of_input[at.offset + columns[j].offset])), sums[j]);
      }
      S mine = 0;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const S sum = warp_sum(sums[j]);
        if (lane == j) mine = sum;
      }
      const S weighted = weight * mine;
      fisher = fma(weighted, mine, fisher);
      gradient += weighted;
    }
    if (lane < kColumns && i + lane < p.I) {
      store(p.fisher, base + i + lane, fisher, p.overwrite);
      store(p.gradient, base + i + lane, gradient, p.overwrite);
    }
  }
}

int64_t splits_of(const MatmulWork& w) {
  const MatmulFisher& f = w.fisher;
  const int64_t blocks = (w.groups * f.O + kWarps - 1) / kWarps * f.G;
  return splits_for(
      {blocks, f.N, 8 * w.multiprocessors, 2 * f.G * f.group_stride * sum_size(f.dtype)});
}

}  // namespace

int64_t fisher_direct_bytes(const MatmulWork& w) {
  const int64_t splits = splits_of(w),
                results = (w.fisher.fisher != nullptr) + (w.fisher.gradient != nullptr);
  return splits > 1
             ? splits * results * w.fisher.G * w.fisher.group_stride * sum_size(w.fisher.dtype)
             : 0;
}

cudaError_t fisher_direct(const MatmulWork& w, void* scratch, cudaStream_t stream) {
  const MatmulFisher& f = w.fisher;
  if (f.G * f.group_stride == 0) return cudaSuccess;
  Problem p{};
  p.input.data = f.input, p.input.features = int(f.I);
  set_patches(p.input, *f.patches);
  p.input.sample_stride = f.input_stride[0], p.input.group_stride = f.conv_input_stride;
  p.grad = f.grad, p.weights = f.weights, p.grad_group_stride = f.conv_grad_stride;
  std::copy_n(f.grad_stride, 3, p.grad_stride);
  p.batch = f.N, p.splits = splits_of(w), p.G = f.G, p.O = f.O, p.I = f.I, p.T = f.T;
  p.units = w.groups * f.O;
  p.fisher = f.fisher, p.gradient = f.gradient, p.group_stride = f.group_stride;
  p.overwrite = f.overwrite;
  const Partials partials(scratch, p.splits, f.G * f.group_stride, sum_size(f.dtype));
  if (p.splits > 1) {
    p.split_stride = f.G * f.group_stride, p.overwrite = true;
    p.fisher = partials.place(0, f.fisher);
    p.gradient = partials.place(f.fisher ? 1 : 0, f.gradient);
  }
  const dim3 grid(unsigned((p.units + kWarps - 1) / kWarps), unsigned(p.splits), unsigned(f.G));
  const cudaError_t error = with_element(f.dtype, [&](auto e) {
    return launch(direct_kernel<decltype(e)>, grid, kThreads, 0, stream, p);
  });
  if (error != cudaSuccess || p.splits == 1) return error;
  if (const cudaError_t failed = partials.sum(p.fisher, f.fisher, f.overwrite, f.dtype, stream);
      failed != cudaSuccess)
    return failed;
  return partials.sum(p.gradient, f.gradient, f.overwrite, f.dtype, stream);
}

}  // namespace fastforget::cuda
