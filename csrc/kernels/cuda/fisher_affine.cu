// Scale and shift of norms, biases, broadcast sums and products: streaming sums over the positions
// of each sample, bound by the reads of grad and input.
//
// Where positions are neighbours in memory (channels of images), a warp owns a parameter and its
// lanes go over the positions. Where parameters are (tokens), a warp's lanes own 32 of them and the
// warps of a block share the positions. Samples are shared among blocks; see partials.cuh.
#include "block.cuh"
#include "fisher.h"
#include "partials.cuh"

namespace fastforget::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kResults = 4;

struct Problem {
  AffineFisher f;
  int64_t splits, split_stride;
  void* results[kResults];  // scale: fisher, gradient; shift: fisher, gradient
  bool overwrite;
};

template <class S>
struct Sums {
  S scale, shift;
};

// A parameter's operands in one sample.
template <class E>
struct Series {
  using S = Sum<E>;
  const E *grad, *input;
  const S *mean, *rstd;

  __device__ __forceinline__ Series(const AffineFisher& f, int64_t n, int64_t p)
      : grad(static_cast<const E*>(f.grad) + n * f.grad_stride[0] + p * f.grad_stride[2]),
        input(static_cast<const E*>(f.input)),
        mean(static_cast<const S*>(f.mean)),
        rstd(static_cast<const S*>(f.rstd)) {
    if (input) input += n * f.input_stride[0] + p * f.input_stride[2];
    if (mean) mean += n * f.mean_stride[0] + p * f.mean_stride[2];
    if (rstd) rstd += n * f.rstd_stride[0] + p * f.rstd_stride[2];
  }

  __device__ __forceinline__ void add(const AffineFisher& f, int64_t a, int64_t b,
                                      Sums<S>& sums) const {
    const S value = wide(grad[a * f.grad_stride[1] + b * f.grad_stride[3]]);
    sums.shift += value;
    if (input == nullptr) return;
    S x = wide(input[a * f.input_stride[1] + b * f.input_stride[3]]);
    if (mean) x -= mean[a * f.mean_stride[1]];
    if (rstd) x *= rstd[a * f.rstd_stride[1]];
    sums.scale = fma(value, x, sums.scale);
  }
};

// The four results of a parameter.
template <class S>
struct Totals {
  S values[kResults] = {};
  __device__ __forceinline__ void add(S weight, const Sums<S>& sums) {
    const S scale = weight * sums.scale, shift = weight * sums.shift;
    values[0] = fma(scale, sums.scale, values[0]), values[1] += scale;
    values[2] = fma(shift, sums.shift, values[2]), values[3] += shift;
  }
  __device__ __forceinline__ void write(const Problem& p, int64_t split, int64_t g,
                                        int64_t parameter) const {
    for (int r = 0; r < kResults; ++r)
      store(p.results[r], split * p.split_stride + g * p.f.P + parameter, values[r], p.overwrite);
  }
};

template <class E>
__global__ void __launch_bounds__(kThreads, 4) positions_kernel(const __grid_constant__ Problem p) {
  using S = Sum<E>;
  const AffineFisher& f = p.f;
  const int64_t parameter = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (parameter >= f.P) return;
  const int64_t split = blockIdx.y, g = blockIdx.z;
  const S* const weights = static_cast<const S*>(f.weights) + g * f.N;
  Totals<S> totals;
  for (int64_t n = f.N * split / p.splits; n < f.N * (split + 1) / p.splits; ++n) {
    if (weights[n] == 0) continue;
    Sums<S> sums{0, 0};
    const Series<E> series(f, n, parameter);
    for (int64_t a = 0; a < f.A; ++a)
      for (int64_t b = threadIdx.x % 32; b < f.B; b += 32) series.add(f, a, b, sums);
    sums.scale = warp_sum(sums.scale), sums.shift = warp_sum(sums.shift);
    totals.add(weights[n], sums);
  }
  if (threadIdx.x % 32 == 0) totals.write(p, split, g, parameter);
}

template <class E>
__global__ void __launch_bounds__(kThreads) parameters_kernel(const __grid_constant__ Problem p) {
  using S = Sum<E>;
  __shared__ Sums<S> shared[kWarps][32];
  const AffineFisher& f = p.f;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t parameter = int64_t(blockIdx.x) * 32 + lane;
  const int64_t split = blockIdx.y, g = blockIdx.z;
  const S* const weights = static_cast<const S*>(f.weights) + g * f.N;
  Totals<S> totals;
  for (int64_t n = f.N * split / p.splits; n < f.N * (split + 1) / p.splits; ++n) {
    if (weights[n] == 0) continue;
    Sums<S> sums{0, 0};
    if (parameter < f.P) {
      const Series<E> series(f, n, parameter);
      const unsigned size = unsigned(f.A * f.B), B = unsigned(f.B);
      for (unsigned m = unsigned(warp); m < size; m += kWarps) series.add(f, m / B, m % B, sums);
    }
    shared[warp][lane] = sums;
    __syncthreads();
    if (warp == 0) {
      for (int w = 1; w < kWarps; ++w)
        sums.scale += shared[w][lane].scale, sums.shift += shared[w][lane].shift;
      totals.add(weights[n], sums);
    }
    __syncthreads();
  }
  if (warp == 0 && parameter < f.P) totals.write(p, split, g, parameter);
}

bool positions_fast(const AffineFisher& f) {
  return f.B > 1 && (f.P == 1 || f.grad_stride[3] <= f.grad_stride[2]);
}

int64_t splits_of(const AffineWork& w) {
  const AffineFisher& f = w.fisher;
  const int64_t owned = positions_fast(f) ? kWarps : 32;
  return splits_for((f.P + owned - 1) / owned * f.G, 8 * w.multiprocessors, f.N,
                    kResults * f.G * f.P * sum_size(f.dtype));
}

}  // namespace

int64_t fisher_affine_bytes(const AffineWork& w) {
  const int64_t splits = splits_of(w);
  return splits > 1 ? splits * kResults * w.fisher.G * w.fisher.P * sum_size(w.fisher.dtype) : 0;
}

cudaError_t fisher_affine(const AffineWork& w, void* scratch, cudaStream_t stream) {
  const AffineFisher& f = w.fisher;
  if (f.G * f.P == 0) return cudaSuccess;
  void* const results[kResults] = {f.scale_fisher, f.scale_gradient, f.shift_fisher,
                                   f.shift_gradient};
  Problem p{};
  p.f = f, p.splits = splits_of(w), p.overwrite = false;
  const Partials partials(scratch, p.splits, f.G * f.P, sum_size(f.dtype));
  for (int r = 0; r < kResults; ++r)
    p.results[r] = p.splits > 1 ? partials.place(r, results[r]) : results[r];
  if (p.splits > 1) p.split_stride = f.G * f.P, p.overwrite = true;
  const bool fast = positions_fast(f);
  const int64_t owned = fast ? kWarps : 32;
  const dim3 grid(unsigned((f.P + owned - 1) / owned), unsigned(p.splits), unsigned(f.G));
  const cudaError_t error = with_element(f.dtype, [&](auto e) {
    using E = decltype(e);
    return launch(fast ? positions_kernel<E> : parameters_kernel<E>, grid, kThreads, 0, stream, p);
  });
  if (error != cudaSuccess || p.splits == 1) return error;
  for (int r = 0; r < kResults; ++r)
    if (const cudaError_t failed = partials.sum(p.results[r], results[r], false, f.dtype, stream);
        failed != cudaSuccess)
      return failed;
  return cudaSuccess;
}

}  // namespace fastforget::cuda
