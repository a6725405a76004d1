// Rows of an embedding: c_n[v] is the sum of grad over the positions of sample n that hold token v.
//
// The first kernel sorts the positions by their token: a thread counts the tokens that come before
// its own, of all in the batch. These are (N T)^2 comparisons, meant for batches of some ten
// thousand tokens. The second kernel gives a block to each token that occurs, found at the first of
// its places in that order. A lane owns a column. The warps of a block own columns beside each
// other; where a token is frequent, they share its samples instead, and more blocks the columns.
// Grad is read once: bound by memory.
#include "divisor.cuh"
#include "element.cuh"
#include "fisher.h"
#include "partials.cuh"

namespace fastforget::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kFrequent = 64;

// Positions in the order of their tokens, and those of the same token in theirs.
struct Order {
  int* positions;  // [N T]
  int* ends;       // [N T]: behind the last place of the same token
  Divisor length;  // T

  // The sample that holds a place's position.
  __device__ __forceinline__ int sample(int place) const {
    return int(length.divide(unsigned(positions[place])));
  }
};

Order order_in(void* scratch, int64_t count, int64_t T) {
  int* const positions = static_cast<int*>(scratch);
  return {positions, positions + count, Divisor(T)};
}

__global__ void __launch_bounds__(kThreads)
    order_kernel(const int64_t* tokens, int count, const Order order) {
  SHARED(int64_t, shared, [kThreads]);
  const int64_t own = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t token = own < count ? tokens[own] : 0;
  int less = 0, same = 0, before = 0;
  for (int64_t first = 0; first < count; first += kThreads) {
    __syncthreads();  // the tokens of the step before have been read
    if (first + threadIdx.x < count) shared[threadIdx.x] = tokens[first + threadIdx.x];
    __syncthreads();
    const int there = int(count - first < kThreads ? count - first : kThreads);
    for (int i = 0; i < there; ++i) {
      less += shared[i] < token;
      same += shared[i] == token;
      before += shared[i] == token && first + i < own;
    }
  }
  if (own >= count) return;
  order.positions[less + before] = int(own);
  order.ends[less + before] = less + same;
}

template <class S>
struct Sums {
  S fisher, gradient;
};

// One column of one token, over places [first, end) of the order; whole samples.
template <class E, class S = Sum<E>>
__device__ Sums<S> sums_of(const EmbeddingFisher& f, const Order& order, const S* weights,
                           int first, int end, int64_t column) {
  constexpr int kTogether = 4;
  Sums<S> sums{0, 0};
  S sum = 0;
  int sample = -1;
  const auto end_sample = [&] {
    if (sample < 0 || weights[sample] == 0) return;
    const S weighted = weights[sample] * sum;
    sums.fisher = fma(weighted, sum, sums.fisher);
    sums.gradient += weighted;
  };
  for (int place = first; place < end; place += kTogether) {
    int samples[kTogether];
    S values[kTogether];
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {  // under way at the same time
      const int from = place + j < end ? place + j : place;
      const int n = order.sample(from), t = order.positions[from] - n * int(f.T);
      samples[j] = n;
      values[j] =
          column < f.D
              ? wide(static_cast<const E*>(f.grad)[n * f.grad_stride[0] + t * f.grad_stride[1] +
                                                   column * f.grad_stride[2]])
              : S(0);
    }
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      if (place + j >= end) break;
      if (samples[j] != sample) {
        end_sample();
        sample = samples[j], sum = 0;
      }
      sum += values[j];
    }
  }
  end_sample();
  return sums;
}

template <class E>
__global__ void __launch_bounds__(kThreads)
    embedding_kernel(const __grid_constant__ EmbeddingFisher f, int64_t padding,
                     const Order order) {
  using S = Sum<E>;
  SHARED(Sums<S>, shared, [kThreads]);
  const int first = int(blockIdx.x), end = order.ends[first], count = end - first;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t token = f.tokens[order.positions[first]], g = blockIdx.z;
  const bool repeated = first > 0 && f.tokens[order.positions[first - 1]] == token;
  if (repeated || token == padding || token < 0 || token >= f.V) return;
  const S* const weights = static_cast<const S*>(f.weights) + g * f.N;
  const bool frequent = count >= kFrequent;
  const auto write = [&](int64_t column, const Sums<S>& sums) {
    if (column >= f.D) return;
    const int64_t at = (g * f.V + token) * f.D + column;
    store(f.fisher, at, sums.fisher, false);
    store(f.gradient, at, sums.gradient, false);
  };
  // Where a warp's share begins: with a sample.
  const auto share = [&](int of) {
    int place = first + int(int64_t(count) * of / kWarps);
    while (place > first && place < end && order.sample(place) == order.sample(place - 1)) ++place;
    return place;
  };
  for (int64_t chunk = blockIdx.y; chunk * 32 < f.D; chunk += gridDim.y) {
    if (!frequent) {  // a warp to each chunk of eight
      if (chunk % kWarps) continue;
      const int64_t column = (chunk + warp) * 32 + lane;
      write(column, sums_of<E>(f, order, weights, first, end, column));
      continue;
    }
    const int64_t column = chunk * 32 + lane;
    __syncthreads();  // the sums of the chunk before have been read
    shared[threadIdx.x] = sums_of<E>(f, order, weights, share(warp), share(warp + 1), column);
    __syncthreads();
    if (warp) continue;
    Sums<S> sums = shared[lane];
    for (int w = 1; w < kWarps; ++w) {
      sums.fisher += shared[w * 32 + lane].fisher;
      sums.gradient += shared[w * 32 + lane].gradient;
    }
    write(column, sums);
  }
}

}  // namespace

int64_t fisher_embedding_bytes(const EmbeddingWork& w) {
  return 2 * w.fisher.N * w.fisher.T * int64_t(sizeof(int));
}

cudaError_t fisher_embedding(const EmbeddingWork& w, void* scratch, cudaStream_t stream) {
  const EmbeddingFisher& f = w.fisher;
  const int64_t count = f.N * f.T;
  if (f.D == 0 || f.G == 0 || count == 0) return cudaSuccess;
  const Order order = order_in(scratch, count, f.T);
  const cudaError_t error = launch(order_kernel, dim3(unsigned((count + kThreads - 1) / kThreads)),
                                   kThreads, 0, stream, f.tokens, int(count), order);
  if (error != cudaSuccess) return error;
  const int64_t chunks = std::min<int64_t>((f.D + 31) / 32, 1024);
  const dim3 grid(unsigned(count), unsigned(chunks), unsigned(f.G));
  return with_element(f.dtype, [&](auto e) {
    return launch(embedding_kernel<decltype(e)>, grid, kThreads, 0, stream, f, w.padding, order);
  });
}

}  // namespace fastforget::cuda
