// Scale and shift of norms, biases, broadcast sums and products: streaming sums over the positions
// of each sample, bound by the reads of grad and input.
//
// Where positions are neighbours in memory (channels of images), a warp owns a parameter and its
// lanes go over the positions. Where parameters are (tokens), a warp's lanes own 32 of them and the
// warps of a block share the positions. A thread has the loads of four positions under way at the
// same time. Samples are shared among blocks; see partials.cuh.
#include "block.cuh"
#include "divisor.cuh"
#include "fisher.h"
#include "partials.cuh"

namespace fastforget::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kResults = 4;

struct Problem {
  AffineFisher f;
  Divisor across;  // B
  Shares shares;
  int64_t splits, split_stride;
  void* results[kResults];  // scale: fisher, gradient; shift: fisher, gradient
  bool overwrite;
};

// What a position adds: grad, and the input less its mean by its deviation.
template <class S>
struct Values {
  S grad, input;
};

template <class S>
struct Sums {
  S scale, shift;
  __device__ __forceinline__ void add(const Values<S>& values) {
    shift += values.grad;
    scale = fma(values.grad, values.input, scale);
  }
  // Adds load(m) for m = first, first + step and so on up to `end`, in this order.
  template <class F>
  __device__ __forceinline__ void add_all(unsigned first, unsigned end, unsigned step,
                                          const F& load) {
    constexpr unsigned kTogether = 4;
    unsigned m = first;
    for (; m + (kTogether - 1) * step < end; m += kTogether * step) {
      Values<S> values[kTogether];
#pragma unroll
      for (unsigned j = 0; j < kTogether; ++j) values[j] = load(m + j * step);
#pragma unroll
      for (unsigned j = 0; j < kTogether; ++j) add(values[j]);
    }
    for (; m < end; m += step) add(load(m));
  }
};

// A parameter's operands in one sample; kScale: there is an input.
template <class E, bool kScale>
struct Series {
  using S = Sum<E>;
  const E *grad, *input;
  const S *mean, *rstd;

  __device__ __forceinline__ Series(const AffineFisher& f, int64_t n, int64_t p)
      : grad(static_cast<const E*>(f.grad) + n * f.grad_stride[0] + p * f.grad_stride[2]),
        input(static_cast<const E*>(f.input)),
        mean(static_cast<const S*>(f.mean)),
        rstd(static_cast<const S*>(f.rstd)) {
    if (kScale) input += n * f.input_stride[0] + p * f.input_stride[2];
    if (mean) mean += n * f.mean_stride[0] + p * f.mean_stride[2];
    if (rstd) rstd += n * f.rstd_stride[0] + p * f.rstd_stride[2];
  }

  __device__ __forceinline__ Values<S> load(const AffineFisher& f, int64_t a, int64_t b) const {
    Values<S> values{wide(grad[a * f.grad_stride[1] + b * f.grad_stride[3]]), 0};
    if constexpr (kScale) {
      S x = wide(input[a * f.input_stride[1] + b * f.input_stride[3]]);
      if (mean) x -= mean[a * f.mean_stride[1]];
      if (rstd) x *= rstd[a * f.rstd_stride[1]];
      values.input = x;
    }
    return values;
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

template <class E, bool kScale>
__global__ void __launch_bounds__(kThreads, 2) positions_kernel(const __grid_constant__ Problem p) {
  using S = Sum<E>;
  const AffineFisher& f = p.f;
  const int64_t parameter = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (parameter >= f.P) return;
  const int64_t split = blockIdx.y, g = blockIdx.z;
  const int64_t first = p.shares.first(split), last = p.shares.first(split + 1);
  const S* const weights = static_cast<const S*>(f.weights) + g * f.N;
  Totals<S> totals;
  for (int64_t n = first; n < last; ++n) {
    if (weights[n] == 0) continue;
    Sums<S> sums{0, 0};
    const Series<E, kScale> series(f, n, parameter);
    for (int64_t a = 0; a < f.A; ++a)
      sums.add_all(threadIdx.x % 32, unsigned(f.B), 32,
                   [&](unsigned b) { return series.load(f, a, b); });
    sums.scale = warp_sum(sums.scale), sums.shift = warp_sum(sums.shift);
    totals.add(weights[n], sums);
  }
  if (threadIdx.x % 32 == 0) totals.write(p, split, g, parameter);
}

template <class E, bool kScale>
__global__ void __launch_bounds__(kThreads) parameters_kernel(const __grid_constant__ Problem p) {
  using S = Sum<E>;
  SHARED(Sums<S>, shared, [kWarps][32]);
  const AffineFisher& f = p.f;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t parameter = int64_t(blockIdx.x) * 32 + lane;
  const int64_t split = blockIdx.y, g = blockIdx.z;
  const int64_t first = p.shares.first(split), last = p.shares.first(split + 1);
  const S* const weights = static_cast<const S*>(f.weights) + g * f.N;
  Totals<S> totals;
  for (int64_t n = first; n < last; ++n) {
    if (weights[n] == 0) continue;
    Sums<S> sums{0, 0};
    if (parameter < f.P) {
      const Series<E, kScale> series(f, n, parameter);
      sums.add_all(unsigned(warp), unsigned(f.A * f.B), kWarps, [&](unsigned m) {
        const unsigned a = p.across.divide(m);
        return series.load(f, a, m - a * unsigned(f.B));
      });
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
  return splits_for({(f.P + owned - 1) / owned * f.G, f.N, 8 * w.multiprocessors,
                     kResults * f.G * f.P * sum_size(f.dtype)});
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
  p.f = f, p.across = Divisor(f.B), p.splits = splits_of(w), p.overwrite = false;
  p.shares = {f.N / p.splits, f.N % p.splits};
  const Partials partials(scratch, p.splits, f.G * f.P, sum_size(f.dtype));
  for (int r = 0; r < kResults; ++r)
    p.results[r] = p.splits > 1 ? partials.place(r, results[r]) : results[r];
  if (p.splits > 1) p.split_stride = f.G * f.P, p.overwrite = true;
  const bool fast = positions_fast(f);
  const int64_t owned = fast ? kWarps : 32;
  const dim3 grid(unsigned((f.P + owned - 1) / owned), unsigned(p.splits), unsigned(f.G));
  const cudaError_t error = with_element(f.dtype, [&](auto e) {
    using E = decltype(e);
    const auto kernel = f.input ? (fast ? positions_kernel<E, true> : parameters_kernel<E, true>)
                                : (fast ? positions_kernel<E, false> : parameters_kernel<E, false>);
    return launch(kernel, grid, kThreads, 0, stream, p);
  });
  if (error != cudaSuccess || p.splits == 1) return error;
  for (int r = 0; r < kResults; ++r)
    if (const cudaError_t failed = partials.sum(p.results[r], results[r], false, f.dtype, stream);
        failed != cudaSuccess)
      return failed;
  return cudaSuccess;
}

}  // namespace fastforget::cuda
