// Gradient projection: one pass over all gradients for their Gram matrix, one for the combination.
//
// A block reads a chunk of every task's gradient, 16 bytes at a time where they are aligned, and
// adds up the products of all pairs of tasks in float64 registers; partial matrices go to scratch
// and are added in order. The combination reads the same chunks once more and writes. Both are
// bound by memory: K reads, then K reads and a write.
#include "project.h"

#include "../weights_from_gram.h"
#include "block.cuh"
#include "element.cuh"
#include "tensor_batch.cuh"

namespace fastforget::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int64_t kChunk = 1 << 14;  // elements
constexpr int kBlock = 8;            // tasks whose pairs one launch takes

// Elements as they are loaded together.
template <class E, int kCount>
struct alignas(sizeof(E) * kCount) Pack {
  E values[kCount];
};

// 16 bytes, or 8 where many tasks would take too many registers.
template <class E, int kTasks = 1>
constexpr int kPack = (kTasks > 4 ? 8 : 16) / int(sizeof(E));

// Pairs (i, j) of tasks first_i + i and first_j + j; where both are the same block, i <= j only.
template <class E, int kTasks, bool kSame>
__global__ void __launch_bounds__(kThreads)
    gram_kernel(const __grid_constant__ TensorBatch batch, int K, int first_i, int first_j,
                double* partial) {
  constexpr int kPairs = kTasks * kTasks;
  constexpr int kTogether = kPack<E, (kSame ? kTasks : 2 * kTasks)>;
  SHARED(double, sums, [kWarps][kPairs]);
  const Piece piece = piece_of(batch, blockIdx.x);
  const E* grads[2 * kTasks];
  bool vectors = true;
  for (int i = 0; i < (kSame ? kTasks : 2 * kTasks); ++i) {
    const int task = i < kTasks ? first_i + i : first_j + i - kTasks;
    const void* const data = batch.pointers[piece.tensor * batch.per_tensor + min(task, K - 1)];
    grads[i] = static_cast<const E*>(data) + piece.offset;
    vectors = vectors && on_16_bytes(grads[i]);
  }
  double pairs[kPairs] = {};
  const auto add = [&](const double (&left)[kTasks], const double (&right)[kTasks]) {
#pragma unroll
    for (int i = 0; i < kTasks; ++i)
#pragma unroll
      for (int j = kSame ? i : 0; j < kTasks; ++j)
        pairs[i * kTasks + j] = fma(left[i], right[j], pairs[i * kTasks + j]);
  };
  const auto one = [&](int64_t at) {
    double left[kTasks], right[kTasks];
#pragma unroll
    for (int i = 0; i < kTasks; ++i) {
      left[i] = wide(grads[i][at]);
      right[i] = kSame ? left[i] : double(wide(grads[kTasks + i][at]));
    }
    add(left, right);
  };
  int64_t done = 0;
  if (vectors) {
    using Vector = Pack<E, kTogether>;
    done = piece.size / kTogether * kTogether;
    for (int64_t at = threadIdx.x * kTogether; at < done; at += kThreads * kTogether) {
      Vector loaded[kSame ? kTasks : 2 * kTasks];
#pragma unroll
      for (int i = 0; i < (kSame ? kTasks : 2 * kTasks); ++i)
        loaded[i] = *reinterpret_cast<const Vector*>(grads[i] + at);
#pragma unroll
      for (int v = 0; v < kTogether; ++v) {
        double left[kTasks], right[kTasks];
#pragma unroll
        for (int i = 0; i < kTasks; ++i) {
          left[i] = wide(loaded[i].values[v]);
          right[i] = kSame ? left[i] : double(wide(loaded[kSame ? i : kTasks + i].values[v]));
        }
        add(left, right);
      }
    }
  }
  for (int64_t at = done + threadIdx.x; at < piece.size; at += kThreads) one(at);
  for (int p = 0; p < kPairs; ++p) {
    const double sum = warp_sum(pairs[p]);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32][p] = sum;
  }
  __syncthreads();
  double* const to = partial + (batch.chunks_before + blockIdx.x) * K * K;
  for (int p = threadIdx.x; p < kPairs; p += kThreads) {
    const int i = first_i + p / kTasks, j = first_j + p % kTasks;
    if (i >= K || j >= K || i > j) continue;
    double sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += sums[w][p];
    to[i * K + j] = sum;
  }
}

// Adds up the partial matrices of chunks [first, first + count): a block per matrix.
__device__ void sum_partials(const double* partial, int64_t first, int64_t count, int K,
                             double* gram) {
  SHARED(double, sums, [kWarps]);
  for (int i = 0; i < K; ++i)
    for (int j = i; j < K; ++j) {
      double mine = 0;
      for (int64_t c = threadIdx.x; c < count; c += kThreads)
        mine += partial[((first + c) * K + i) * K + j];
      mine = warp_sum(mine);
      if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = mine;
      __syncthreads();
      if (threadIdx.x == 0) {
        double sum = 0;
        for (int w = 0; w < kWarps; ++w) sum += sums[w];
        gram[i * K + j] = gram[j * K + i] = sum;
      }
      __syncthreads();
    }
}

__global__ void __launch_bounds__(kThreads)
    sum_all(const double* partial, int64_t count, int K, double* gram) {
  sum_partials(partial, 0, count, K, gram);
}

__global__ void __launch_bounds__(kThreads) sum_each(const __grid_constant__ TensorBatch batch,
                                                     const double* partial, int K, double* gram) {
  const int l = blockIdx.x;
  const int64_t first = batch.chunks_before + batch.first_chunk[l];
  sum_partials(partial, first, batch.first_chunk[l + 1] - batch.first_chunk[l], K,
               gram + batch.tag[l] * K * K);
}

// A thread per scope.
__global__ void weights_kernel(const double* gram, const int64_t* order, int64_t S, int64_t K,
                               int64_t M, double* current, double* weights) {
  const int64_t s = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (s >= S) return;
  weights_from_gram(gram + s * K * K, order, K, M, current + s * K, weights + s * K);
}

template <class E>
__global__ void __launch_bounds__(kThreads)
    combine_kernel(const __grid_constant__ TensorBatch batch, int K, const double* weights,
                   bool per_tensor) {
  const Piece piece = piece_of(batch, blockIdx.x);
  const void* const* const pointers = batch.pointers + piece.tensor * batch.per_tensor;
  if (per_tensor) weights += batch.tag[piece.tensor] * K;
  E* const out = static_cast<E*>(const_cast<void*>(pointers[K])) + piece.offset;
  const auto grad = [&](int k) { return static_cast<const E*>(pointers[k]) + piece.offset; };
  bool vectors = on_16_bytes(out);
  for (int k = 0; k < K; ++k) vectors = vectors && on_16_bytes(grad(k));
  int64_t done = 0;
  if (vectors) {
    using Vector = Pack<E, kPack<E>>;
    done = piece.size / kPack<E> * kPack<E>;
    for (int64_t at = threadIdx.x * kPack<E>; at < done; at += kThreads * kPack<E>) {
      double sum[kPack<E>] = {};
#pragma unroll 4
      for (int k = 0; k < K; ++k) {
        const Vector loaded = *reinterpret_cast<const Vector*>(grad(k) + at);
        const double weight = __ldg(weights + k);
#pragma unroll
        for (int v = 0; v < kPack<E>; ++v)
          sum[v] = fma(weight, double(wide(loaded.values[v])), sum[v]);
      }
      Vector result;
#pragma unroll
      for (int v = 0; v < kPack<E>; ++v) result.values[v] = narrow<E>(sum[v]);
      *reinterpret_cast<Vector*>(out + at) = result;
    }
  }
  for (int64_t at = done + threadIdx.x; at < piece.size; at += kThreads) {
    double sum = 0;
    for (int k = 0; k < K; ++k) sum = fma(weights[k], double(wide(grad(k)[at])), sum);
    out[at] = narrow<E>(sum);
  }
}

template <class Launch>
cudaError_t in_grad_batches(const GradTensors& g, int64_t extra, void* const* out,
                            const Launch& launch) {
  return in_batches(
      g.L, int(g.K + extra), kChunk, [&](int64_t l) { return g.sizes[l]; },
      [&](int64_t l) { return g.dtypes[l]; },
      [&](int64_t l, const void** pointers, int64_t& tag) {
        std::copy_n(g.grads + l * g.K, g.K, pointers);
        if (out) pointers[g.K] = out[l];
        tag = l;
      },
      launch);
}

int64_t chunks_of(const GradTensors& g) {
  int64_t chunks = 0;
  for (int64_t l = 0; l < g.L; ++l) chunks += (g.sizes[l] + kChunk - 1) / kChunk;
  return chunks;
}

template <class E, int kTasks, bool kSame>
cudaError_t launch_gram(const TensorBatch& batch, int K, int i, int j, double* partial,
                        cudaStream_t stream) {
  return launch(gram_kernel<E, kTasks, kSame>, dim3(unsigned(batch.chunks())), kThreads, 0, stream,
                batch, K, i, j, partial);
}

template <class E>
cudaError_t gram_of(const TensorBatch& batch, int K, double* partial, cudaStream_t stream) {
  if (K <= 2) return launch_gram<E, 2, true>(batch, K, 0, 0, partial, stream);
  if (K <= 4) return launch_gram<E, 4, true>(batch, K, 0, 0, partial, stream);
  if (K <= kBlock) return launch_gram<E, kBlock, true>(batch, K, 0, 0, partial, stream);
  for (int i = 0; i < K; i += 4)
    for (int j = i; j < K; j += 4) {
      const cudaError_t error = i == j ? launch_gram<E, 4, true>(batch, K, i, j, partial, stream)
                                       : launch_gram<E, 4, false>(batch, K, i, j, partial, stream);
      if (error != cudaSuccess) return error;
    }
  return cudaSuccess;
}

}  // namespace

int64_t project_gram_bytes(const GradTensors& g) { return chunks_of(g) * g.K * g.K * 8; }

cudaError_t project_gram(const GradTensors& g, bool per_tensor, double* gram, void* scratch,
                         cudaStream_t stream) {
  double* const partial = static_cast<double*>(scratch);
  const int K = int(g.K);
  const size_t bytes = size_t((per_tensor ? g.L : 1) * K * K) * sizeof(double);
  cudaError_t error = cudaMemsetAsync(gram, 0, bytes, stream);  // tensors may be empty
  if (error != cudaSuccess) return error;
  error = in_grad_batches(g, 0, nullptr, [&](const TensorBatch& batch, DType dtype) {
    return with_element(dtype,
                        [&](auto e) { return gram_of<decltype(e)>(batch, K, partial, stream); });
  });
  if (error != cudaSuccess) return error;
  if (!per_tensor)
    return launch(sum_all, dim3(1), kThreads, 0, stream, partial, chunks_of(g), K, gram);
  return in_grad_batches(g, 0, nullptr, [&](const TensorBatch& batch, DType) {
    return launch(sum_each, dim3(unsigned(batch.count)), kThreads, 0, stream, batch, partial, K,
                  gram);
  });
}

cudaError_t project_weights(const double* gram, const int64_t* order, int64_t S, int64_t K,
                            int64_t M, double* current, double* weights, cudaStream_t stream) {
  constexpr int kScopes = 32;
  return launch(weights_kernel, dim3(unsigned((S + kScopes - 1) / kScopes)), kScopes, 0, stream,
                gram, order, S, K, M, current, weights);
}

cudaError_t project_combine(const GradTensors& g, int64_t S, const double* weights,
                            void* const* out, cudaStream_t stream) {
  return in_grad_batches(g, 1, out, [&](const TensorBatch& batch, DType dtype) {
    return with_element(dtype, [&](auto e) {
      return launch(combine_kernel<decltype(e)>, dim3(unsigned(batch.chunks())), kThreads, 0,
                    stream, batch, int(g.K), weights, S > 1);
    });
  });
}

}  // namespace fastforget::cuda
