// Weights of linear layers and convolutions: c_n[o, i] = sum_t grad[n, t, o] * input[n, t, i].
//
// A block owns a tile of the weight, for one group of sample weights and one share of the samples.
// For each sample it brings tiles of grad and input into shared memory and sums c_n in registers;
// when the sample is done, it adds the square to a second set of registers. The gradient of a
// sample never leaves them. Reads from global memory are O / tile times the input and I / tile
// times grad. With T positions the product is 2 T flops per element of the weight and sample, and
// the square 3: arithmetic bounds it where T is some dozens.
//
// There are three kernels: for half types and tf32 matmul_stream.cuh, or matmul_tensor.cuh where an
// operand cannot be copied 16 bytes at a time; matmul_exact.cuh for the others and for T = 1. Where
// the tiles are too few for the device, blocks share the samples; their partial sums go to scratch
// memory and are added in order.
#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>

#include "fisher.h"
#include "matmul_exact.cuh"
#include "matmul_operands.cuh"
#include "matmul_start.cuh"
#include "partials.cuh"

namespace fastforget::cuda {
namespace {

// Which kernel, with what tiles, and among how many blocks the samples are shared.
struct Plan {
  bool flat, tensor;
  int64_t rows, columns, blocks, splits;
};

Plan plan_of(const MatmulWork& w) {
  const MatmulFisher& f = w.fisher;
  Plan plan{};
  plan.flat = f.T == 1 && !input_of(w).patches;
  plan.tensor = !plan.flat && (element_size(f.dtype) == 2 || (w.tf32 && f.dtype == DType::f32));
  const bool large = f.O > 64 && f.I > 64 && f.dtype != DType::f64;
  // Three sets of registers, with the gradient, leave room for half as large a tile. So do elements
  // on their way through registers, and second sums in shared memory.
  const bool streamed =
      !plan.tensor || (vector_bytes(grad_of(w), w) == 16 && vector_bytes(input_of(w), w) == 16 &&
                       f.T <= cut_off(element_size(f.dtype)));
  plan.rows = large ? 128 : 64;
  plan.columns = large && streamed && (plan.flat || !f.gradient) ? 128 : 64;
  if (!plan.tensor) plan.rows = plan.columns;
  plan.blocks = blocks_of(f.O, f.I, plan.rows, plan.columns, w.groups * f.G);
  // A multiprocessor runs two of the smallest tiles at the same time, and one of the others. A
  // block takes some hundred samples where they are the positions.
  const int64_t slots = w.multiprocessors * (plan.rows == 64 ? 2 : 1);
  plan.splits = splits_for({plan.blocks, plan.flat ? f.N / 256 : f.N, slots,
                            2 * f.G * f.group_stride * sum_size(f.dtype)});
  return plan;
}

MatmulProblem problem_of(const MatmulWork& w, const Plan& plan) {
  const MatmulFisher& f = w.fisher;
  MatmulProblem p{};
  p.grad = grad_of(w), p.input = input_of(w);
  for (Operand* x : {&p.grad, &p.input}) {
    if (plan.flat) {
      x->positions = f.N, x->position_stride = x->sample_stride;
      x->features_fast = x->features > 1 && x->feature_stride <= x->position_stride;
    }
    x->vector_bytes = plan.tensor ? vector_bytes(*x, w) : 0;
    // The stride of a dimension of one may be anything, also what no copy is aligned to.
    if (x->positions <= 1) x->position_stride = 0;
    if (x->features <= 1) x->feature_stride = 0;
    if (f.N <= 1) x->sample_stride = 0;
    if (w.groups <= 1) x->group_stride = 0;
  }
  p.batch = f.N, p.splits = plan.splits, p.O = f.O, p.I = f.I, p.groups = w.groups;
  p.weights = f.weights, p.fisher = f.fisher, p.gradient = f.gradient;
  p.group_stride = f.group_stride, p.overwrite = f.overwrite;
  return p;
}

template <class C>
cudaError_t start_exact_tile(const MatmulProblem& p, int64_t G, cudaStream_t stream) {
  return launch(exact_kernel<C>, grid_of(p, C::kRows, C::kColumns, G), kMatmulThreads, C::kShared,
                stream, p);
}

template <class E>
cudaError_t start_exact(const Plan& plan, const MatmulProblem& p, int64_t G, cudaStream_t stream) {
  using Large = ExactTile<E, 128, false, false>;
  using Small = ExactTile<E, 64, true, false>;
  if constexpr (!std::is_same_v<E, double>)
    if (plan.columns == 128) return start_exact_tile<Large>(p, G, stream);
  return start_exact_tile<Small>(p, G, stream);
}

// The square of the samples' products, and the products for the gradient, one after the other.
template <class E>
cudaError_t start_flat(const Plan& plan, MatmulProblem p, int64_t G, cudaStream_t stream) {
  using Large = ExactTile<E, 128, false, true>;
  using Small = ExactTile<E, 64, false, true>;
  void* const results[] = {p.gradient, p.fisher};
  p.gradient = nullptr;
  for (const int power : {1, 2}) {
    p.power = power, p.fisher = results[power - 1];
    if (p.fisher == nullptr) continue;
    cudaError_t error = cudaSuccess;
    if constexpr (!std::is_same_v<E, double>)
      if (plan.columns == 128) error = start_exact_tile<Large>(p, G, stream);
    if (std::is_same_v<E, double> || plan.columns != 128)
      error = start_exact_tile<Small>(p, G, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace

int64_t fisher_matmul_bytes(const MatmulWork& w) {
  const MatmulFisher& f = w.fisher;
  const int64_t results = (f.fisher != nullptr) + (f.gradient != nullptr);
  const Plan plan = plan_of(w);
  return plan.splits > 1 ? plan.splits * results * f.G * f.group_stride * sum_size(f.dtype) : 0;
}

cudaError_t fisher_matmul(const MatmulWork& w, void* scratch, cudaStream_t stream) {
  const MatmulFisher& f = w.fisher;
  if (f.G * f.group_stride == 0) return cudaSuccess;
  const Plan plan = plan_of(w);
  if (plan.blocks > std::numeric_limits<int32_t>::max()) return cudaErrorInvalidValue;
  MatmulProblem p = problem_of(w, plan);
  const Partials partials(scratch, plan.splits, f.G * f.group_stride, sum_size(f.dtype));
  if (plan.splits > 1) {
    p.split_stride = f.G * f.group_stride, p.overwrite = true;
    p.fisher = partials.place(0, f.fisher);
    p.gradient = partials.place(f.fisher ? 1 : 0, f.gradient);
  }
  const cudaError_t error = with_element(f.dtype, [&](auto e) {
    using E = decltype(e);
    if (plan.flat) return start_flat<E>(plan, p, f.G, stream);
    if constexpr (!std::is_same_v<E, double>)
      if (plan.tensor) return start_tensor<E>(p, plan.rows, plan.columns, f.G, stream);
    if constexpr (sizeof(E) >= 4) return start_exact<E>(plan, p, f.G, stream);
    return cudaErrorInvalidValue;
  });
  if (error != cudaSuccess || plan.splits == 1) return error;
  for (const auto& [from, to] : {std::pair(p.fisher, f.fisher), {p.gradient, f.gradient}})
    if (const cudaError_t failed = partials.sum(from, to, f.overwrite, f.dtype, stream);
        failed != cudaSuccess)
      return failed;
  return cudaSuccess;
}

}  // namespace fastforget::cuda
