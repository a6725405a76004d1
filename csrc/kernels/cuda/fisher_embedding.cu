// Rows of an embedding: c_n[v] is the sum of grad over the positions of sample n that hold token v.
//
// A block belongs to one position of the batch. It looks whether it is the first that holds its
// token; if so, it goes on through the batch, gathers the positions with the same token in order,
// and its threads, each owning some columns, sum grad over those of one sample before they square.
// Tokens are read about (N T)^2 / 2 times in all where no two are the same, from L2: meant for
// batches of some ten thousand tokens.
#include "element.cuh"
#include "fisher.h"
#include "partials.cuh"

namespace fastforget::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

template <class E>
__global__ void __launch_bounds__(kThreads)
    embedding_kernel(const __grid_constant__ EmbeddingFisher f, int64_t padding) {
  using S = Sum<E>;
  SHARED(int, same_token, [kThreads]);
  SHARED(int, counts, [kWarps]);
  const int64_t own = blockIdx.x, size = f.N * f.T, g = blockIdx.y;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t token = f.tokens[own];
  if (token == padding || token < 0 || token >= f.V) return;
  // Lists which of the next positions hold the token, and returns how many; every thread calls.
  const auto gather = [&](int64_t from, int64_t end) {
    const int64_t at = from + threadIdx.x;
    const bool same = at < end && f.tokens[at] == token;
    const unsigned votes = __ballot_sync(0xffffffff, same);
    if (lane == 0) counts[warp] = __popc(votes);
    __syncthreads();
    int before = 0, total = 0;
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) before += counts[w];
      total += counts[w];
    }
    if (same) same_token[before + __popc(votes & ((1u << lane) - 1))] = int(threadIdx.x);
    __syncthreads();
    return total;
  };
  for (int64_t from = 0; from < own; from += kThreads)
    if (gather(from, own) > 0) return;
  const S* const weights = static_cast<const S*>(f.weights) + g * f.N;
  for (int64_t first = 0; first < f.D; first += kThreads) {
    const int64_t d = first + threadIdx.x;
    S fisher = 0, gradient = 0, sum = 0;
    int64_t sample = -1;
    const auto end_sample = [&] {
      if (sample < 0 || weights[sample] == 0) return;
      const S weighted = weights[sample] * sum;
      fisher = fma(weighted, sum, fisher);
      gradient += weighted;
    };
    for (int64_t from = own; from < size; from += kThreads) {
      const int total = gather(from, size);
      for (int i = 0; i < total; ++i) {
        const int64_t at = from + same_token[i], n = at / f.T, t = at % f.T;
        if (n != sample) {
          end_sample();
          sample = n, sum = 0;
        }
        if (d < f.D)
          sum += wide(static_cast<const E*>(
              f.grad)[n * f.grad_stride[0] + t * f.grad_stride[1] + d * f.grad_stride[2]]);
      }
      __syncthreads();
    }
    end_sample();
    if (d >= f.D) continue;
    const int64_t at = (g * f.V + token) * f.D + d;
    store(f.fisher, at, fisher, false);
    store(f.gradient, at, gradient, false);
  }
}

}  // namespace

cudaError_t fisher_embedding(const EmbeddingFisher& f, int64_t padding, cudaStream_t stream) {
  if (f.D == 0) return cudaSuccess;
  const dim3 grid(unsigned(f.N * f.T), unsigned(f.G));
  return with_element(f.dtype, [&](auto e) {
    return launch(embedding_kernel<decltype(e)>, grid, kThreads, 0, stream, f, padding);
  });
}

}  // namespace fastforget::cuda
