// Weights of linear layers and convolutions: c_n[o, i] = sum_t grad[n, t, o] * input[n, t, i].
//
// A block owns a tile of the weight, for one group of sample weights and one share of the samples.
// It goes through the samples; for each, tiles of grad and input come into shared memory (copied
// asynchronously, two steps ahead), c_n is summed in registers, by tensor cores for half types and
// tf32, and its square is added to a second set of registers when the sample is done. The gradient
// of a sample never leaves them. Reads from global memory are O / tile times the input and I / tile
// times grad; with T positions the product is 2 T flops an element of the weight and sample beside
// 3 for the square, so that the tensor cores bound it where T is some dozens.
//
// Where the tiles are too few for the device, the samples are shared among blocks whose partial
// sums go to scratch and are added in order.
#include <algorithm>
#include <type_traits>
#include <utility>

#include "fisher.h"
#include "operand.cuh"
#include "partials.cuh"

namespace fastforget::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

// What a kernel needs to know.
struct Problem {
  Operand grad, input;
  int64_t batch, splits, O, I, groups;
  const void* weights;      // [G, batch]
  void *fisher, *gradient;  // [G, group_stride]
  int64_t group_stride, split_stride;
  bool overwrite;
  int power;  // flat: 1 or 2, else 0
};

// The tile of the weight and the share of the samples of a block.
struct Share {
  int o, i;
  int64_t group, g, split, first, last;
};

template <int kRows, int kColumns>
__device__ __forceinline__ Share share_of(const Problem& p) {
  const int tiles = int((p.I + kColumns - 1) / kColumns);
  Share s;
  s.i = int(blockIdx.x) % tiles * kColumns, s.o = int(blockIdx.x) / tiles * kRows;
  s.split = blockIdx.y;
  s.group = int64_t(blockIdx.z) % p.groups, s.g = int64_t(blockIdx.z) / p.groups;
  s.first = p.batch * s.split / p.splits, s.last = p.batch * (s.split + 1) / p.splits;
  return s;
}

// A step: positions [k, k + kPositions) of one sample that has a weight.
template <int kPositions, class S>
struct Cursor {
  const S* weights;  // null: all samples count
  int64_t last, positions, n, k;

  __device__ __forceinline__ Cursor(const S* weights, int64_t first, int64_t last, int64_t k,
                                    int64_t positions)
      : weights(weights), last(k < positions ? last : first), positions(positions), n(first), k(k) {
    skip();
  }
  __device__ __forceinline__ bool valid() const { return n < last; }
  __device__ __forceinline__ bool ends_sample() const { return k + kPositions >= positions; }
  __device__ __forceinline__ void advance() {
    k += kPositions;
    if (k < positions) return;
    k = 0, ++n;
    skip();
  }
  __device__ __forceinline__ void skip() {
    while (weights && n < last && weights[n] == 0) ++n;
  }
};

__device__ __forceinline__ void columns_of(const Problem& p, int i, Column* columns, int count) {
  for (int c = threadIdx.x; c < count; c += kThreads)
    columns[c] =
        p.input.patches ? column_of(p.input, i + c) : Column{0, 0, 0, 0, i + c < p.I ? i + c : -1};
}

// Tensor cores: warps in a grid, each with kM x kN products of 16 x 8.
// Where kCopied both operands are copied asynchronously: nothing waits in registers.
template <class E_, int kRows_, int kColumns_, int kWarpRows_, bool kGradient_, bool kCopied_>
struct Config {
  using E = E_;
  static constexpr int kRows = kRows_, kColumns = kColumns_, kWarpRows = kWarpRows_;
  static constexpr bool kGradient = kGradient_, kCopied = kCopied_;
  static constexpr int kStep = sizeof(E) == 2 ? 16 : 8, kPositions = 2 * kStep, kStages = 3;
  static constexpr int kWarpColumns = kWarps / kWarpRows;
  static constexpr int kM = kRows / kWarpRows / 16, kN = kColumns / kWarpColumns / 8;
  static_assert(kN % 2 == 0);
  using A = Tile<E, kRows, kPositions, kThreads, kCopied>;
  using B = Tile<E, kColumns, kPositions, kThreads, kCopied>;
  static constexpr int kTiles = A::kSize + B::kSize;
  static constexpr size_t kShared = kStages * kTiles * sizeof(E) + kColumns * sizeof(Column);
};

template <class E>
__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4],
                                         const unsigned (&b)[2]) {
  if constexpr (std::is_same_v<E, Bf16>)
    mma_bf16(d, a, b);
  else if constexpr (std::is_same_v<E, F16>)
    mma_f16(d, a, b);
  else
    mma_tf32(d, a, b);
}

template <class C>
__global__ void __launch_bounds__(kThreads) tensor_kernel(const __grid_constant__ Problem p) {
  using E = typename C::E;
  E* const tiles = static_cast<E*>(dynamic_shared());
  Column* const columns = reinterpret_cast<Column*>(tiles + C::kStages * C::kTiles);
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
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = warp / C::kWarpColumns * C::kM * 16, column = warp % C::kWarpColumns * C::kN * 8;
  float c[C::kM][C::kN][4] = {}, fisher[C::kM][C::kN][4] = {};
  float gradient[C::kGradient ? C::kM : 1][C::kGradient ? C::kN : 1][4] = {};
  copy_wait<C::kStages - 2>();
  __syncthreads();
  for (int stage = 0; at.valid(); at.advance()) {
    const int next = (stage + C::kStages - 1) % C::kStages;
    begin(ahead, next);
    const E* const a_tile = tiles + stage * C::kTiles;
    const E* const b_tile = a_tile + C::A::kSize;
#pragma unroll
    for (int k = 0; k < C::kPositions; k += C::kStep) {
      if (at.k + k >= p.grad.positions) break;
      unsigned a[C::kM][4];
#pragma unroll
      for (int m = 0; m < C::kM; ++m)
        C::A::fragment(a[m], a_tile, p.grad.features_fast, row + 16 * m, k);
#pragma unroll
      for (int n = 0; n < C::kN; n += 2) {
        unsigned b[4];
        C::B::fragment(b, b_tile, p.input.features_fast, column + 8 * n, k);
#pragma unroll
        for (int m = 0; m < C::kM; ++m) {
          multiply<E>(c[m][n], a[m], {b[0], b[2]});
          multiply<E>(c[m][n + 1], a[m], {b[1], b[3]});
        }
      }
    }
    finish(ahead, next);
    if (at.ends_sample()) {
      const float weight = weights[at.n];
#pragma unroll
      for (int m = 0; m < C::kM; ++m)
#pragma unroll
        for (int n = 0; n < C::kN; ++n)
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const float weighted = weight * c[m][n][j];
            fisher[m][n][j] = fmaf(weighted, c[m][n][j], fisher[m][n][j]);
            if constexpr (C::kGradient) gradient[m][n][j] += weighted;
            c[m][n][j] = 0;
          }
    }
    ahead.advance();
    copy_wait<C::kStages - 2>();
    __syncthreads();
    stage = (stage + 1) % C::kStages;
  }
  const int64_t base = s.split * p.split_stride + s.g * p.group_stride + s.group * p.O * p.I;
#pragma unroll
  for (int m = 0; m < C::kM; ++m)
#pragma unroll
    for (int n = 0; n < C::kN; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t o = s.o + row + 16 * m + lane / 4 + j / 2 * 8;
        const Column to = columns[column + 8 * n + lane % 4 * 2 + j % 2];
        if (o >= p.O || to.target < 0) continue;
        store(p.fisher, base + o * p.I + to.target, fisher[m][n][j], p.overwrite);
        if constexpr (C::kGradient)
          store(p.gradient, base + o * p.I + to.target, gradient[m][n][j], p.overwrite);
      }
}

// Fused multiply-adds in the type of the sums: float32 to the last digit, float64, and T = 1, where
// (g a)^2 = g^2 a^2 makes one product over all samples of the squares (kFlat). A thread has a
// square of the tile; operands are widened on the way into shared memory, [positions][features].
template <class E_, int kTile_, bool kGradient_, bool kFlat_>
struct Exact {
  using E = E_;
  using S = Sum<E>;
  static constexpr bool kGradient = kGradient_, kFlat = kFlat_;
  static constexpr int kRows = kTile_, kColumns = kTile_, kPositions = 16, kSide = kTile_ / 16;
  static constexpr int kWide = kTile_ + 16 / int(sizeof(S));
  using Staged = Elements<E, kTile_, kPositions, kThreads>;
  static constexpr size_t kShared =
      2 * 2 * kPositions * kWide * sizeof(S) + kTile_ * sizeof(Column);
};

template <class C>
__global__ void __launch_bounds__(kThreads) exact_kernel(const __grid_constant__ Problem p) {
  using E = typename C::E;
  using S = typename C::S;
  constexpr int kSide = C::kSide, kHalf = C::kPositions * C::kWide;
  S* const tiles = static_cast<S*>(dynamic_shared());  // two stages of grad and input
  Column* const columns = reinterpret_cast<Column*>(tiles + 4 * kHalf);
  const Share s = share_of<C::kRows, C::kColumns>(p);
  columns_of(p, s.i, columns, C::kColumns);
  __syncthreads();
  const E* const grad = static_cast<const E*>(p.grad.data) + s.group * p.grad.group_stride;
  const E* const input = static_cast<const E*>(p.input.data) + s.group * p.input.group_stride;
  const S* const weights = static_cast<const S*>(p.weights) + s.g * p.batch;

  typename C::Staged staged_a, staged_b;
  using At = Cursor<C::kPositions, S>;
  const auto begin = [&](const At& at) {
    if (!at.valid()) return;
    staged_a.load(p.grad, grad + at.n * p.grad.sample_stride, nullptr, s.o, at.k);
    staged_b.load(p.input, input + at.n * p.input.sample_stride, columns, s.i, at.k);
  };
  const auto widened = [&](S* to, const typename C::Staged& staged, const Operand& x, const At& at,
                           bool weighted) {
    own_elements<C::kRows, C::kPositions, kThreads>(x.features_fast, [&](int j, int f, int t) {
      S value = wide(staged.values[j]);
      if constexpr (C::kFlat) {  // positions are samples; one without a weight does not count
        const S weight = at.k + t < at.positions ? weights[at.k + t] : S(0);
        value = p.power == 2 ? value * value : value;
        value = weight == 0 ? S(0) : weighted ? weight * value : value;
      }
      to[t * C::kWide + f] = value;
    });
  };
  const auto finish = [&](const At& at, int stage) {
    if (!at.valid()) return;
    S* const a = tiles + stage * 2 * kHalf;
    widened(a, staged_a, p.grad, at, false);
    widened(a + kHalf, staged_b, p.input, at, true);
  };

  At at = C::kFlat ? At(nullptr, 0, 1, s.first, s.last)
                   : At(weights, s.first, s.last, 0, p.grad.positions);
  At ahead = at;
  begin(ahead);
  finish(ahead, 0);
  ahead.advance();
  __syncthreads();
  const int y = threadIdx.x / 16, x = threadIdx.x % 16;
  S c[kSide][kSide] = {}, fisher[kSide][kSide] = {};
  S gradient[C::kGradient ? kSide : 1][C::kGradient ? kSide : 1] = {};
  for (int stage = 0; at.valid(); at.advance(), stage ^= 1) {
    begin(ahead);
    const S* const a_tile = tiles + stage * 2 * kHalf;
    const S* const b_tile = a_tile + kHalf;
#pragma unroll
    for (int k = 0; k < C::kPositions; ++k) {
      S a[kSide], b[kSide];
#pragma unroll
      for (int j = 0; j < kSide; ++j) a[j] = a_tile[k * C::kWide + y * kSide + j];
#pragma unroll
      for (int j = 0; j < kSide; ++j) b[j] = b_tile[k * C::kWide + x + 16 * j];
#pragma unroll
      for (int r = 0; r < kSide; ++r)
#pragma unroll
        for (int j = 0; j < kSide; ++j) c[r][j] = fma(a[r], b[j], c[r][j]);
    }
    finish(ahead, stage ^ 1);
    if (at.ends_sample()) {
      const S weight = C::kFlat ? S(1) : weights[at.n];
#pragma unroll
      for (int r = 0; r < kSide; ++r)
#pragma unroll
        for (int j = 0; j < kSide; ++j) {
          const S weighted = weight * c[r][j];
          fisher[r][j] = C::kFlat ? c[r][j] : fma(weighted, c[r][j], fisher[r][j]);
          if constexpr (C::kGradient) gradient[r][j] += weighted;
          c[r][j] = 0;
        }
    }
    ahead.advance();
    __syncthreads();
  }
  const int64_t base = s.split * p.split_stride + s.g * p.group_stride + s.group * p.O * p.I;
#pragma unroll
  for (int r = 0; r < kSide; ++r)
#pragma unroll
    for (int j = 0; j < kSide; ++j) {
      const int64_t o = s.o + y * kSide + r;
      const Column to = columns[x + 16 * j];
      if (o >= p.O || to.target < 0) continue;
      store(p.fisher, base + o * p.I + to.target, fisher[r][j], p.overwrite);
      if constexpr (C::kGradient)
        store(p.gradient, base + o * p.I + to.target, gradient[r][j], p.overwrite);
    }
}

// The widest copy of neighbours that all addresses allow, 0 for none.
int vector_bytes(const Operand& x, const MatmulWork& w) {
  const int64_t batch = w.fisher.N, groups = w.groups, size_of = element_size(w.fisher.dtype);
  const int64_t fast = x.features_fast ? x.feature_stride : x.position_stride;
  if (x.patches || fast != 1) return 0;
  const int64_t far = x.features_fast ? x.position_stride : x.feature_stride;
  for (const int bytes : {16, 8, 4}) {
    const auto fits = [&](int64_t stride, int64_t size) {
      return size <= 1 || stride * size_of % bytes == 0;
    };
    if (reinterpret_cast<uintptr_t>(x.data) % size_t(bytes) == 0 &&
        fits(far, x.features_fast ? x.positions : x.features) && fits(x.sample_stride, batch) &&
        fits(x.group_stride, groups))
      return bytes;
  }
  return 0;
}

// A convolution by a kernel of one element reads a strided matrix, if its positions are one axis.
bool pointwise(const Patches& p) {
  int64_t next = p.in_stride[3] * p.size[2];
  for (int d = 0; d < 3; ++d)
    if (p.kernel[d] != 1 || p.stride[d] != 1 || p.padding[d] != 0) return false;
  for (int d = 1; d >= 0; --d) {
    if (p.size[d] == 1) continue;
    if (p.size[2] > 1 && p.in_stride[d + 1] != next) return false;
    next = p.in_stride[d + 1] * p.size[d];
  }
  return p.size[2] > 1 || (p.size[0] == 1 && p.size[1] == 1);
}

Operand grad_of(const MatmulWork& w) {
  const MatmulFisher& f = w.fisher;
  Operand x{};
  x.data = f.grad, x.features = int(f.O), x.positions = f.T;
  x.sample_stride = f.grad_stride[0], x.position_stride = f.grad_stride[1];
  x.feature_stride = int(f.grad_stride[2]), x.group_stride = f.conv_grad_stride;
  x.features_fast = f.O > 1 && (f.T == 1 || x.feature_stride < x.position_stride);
  return x;
}

Operand input_of(const MatmulWork& w) {
  const MatmulFisher& f = w.fisher;
  Operand x{};
  x.data = f.input, x.features = int(f.I), x.positions = f.T;
  x.sample_stride = f.input_stride[0], x.group_stride = f.conv_input_stride;
  x.position_stride = f.input_stride[1], x.feature_stride = int(f.input_stride[2]);
  if (f.patches) {
    x.position_stride = f.patches->in_stride[3], x.feature_stride = int(f.patches->in_stride[0]);
    x.patches = !pointwise(*f.patches), x.shape = *f.patches;
  }
  x.features_fast = x.patches ? x.shape.channels > 1 && x.feature_stride < x.position_stride
                              : f.I > 1 && (f.T == 1 || x.feature_stride < x.position_stride);
  return x;
}

// Which kernel, with what tiles, and among how many blocks the samples are shared.
struct Plan {
  bool flat, tensor;
  int64_t rows, columns, splits;
};

Plan plan_of(const MatmulWork& w) {
  const MatmulFisher& f = w.fisher;
  Plan plan{};
  plan.flat = f.T == 1 && !input_of(w).patches;
  plan.tensor = !plan.flat && (element_size(f.dtype) == 2 || (w.tf32 && f.dtype == DType::f32));
  const bool large = f.O > 64 && f.I > 64 && f.dtype != DType::f64;
  // Three sets of registers, with the gradient, leave room for half as large a tile, and so do
  // elements on their way through registers.
  const bool copied = !plan.tensor || (vector_bytes(grad_of(w), w) && vector_bytes(input_of(w), w));
  plan.rows = large ? 128 : 64;
  plan.columns = large && copied && (plan.flat || !f.gradient) ? 128 : 64;
  if (!plan.tensor) plan.rows = plan.columns;
  const int64_t tiles =
      (f.O + plan.rows - 1) / plan.rows * ((f.I + plan.columns - 1) / plan.columns);
  // A block takes some hundred samples where they are the positions.
  plan.splits =
      splits_for(tiles * w.groups * f.G, 2 * w.multiprocessors, plan.flat ? f.N / 256 : f.N,
                 2 * f.G * f.group_stride * sum_size(f.dtype));
  return plan;
}

Problem problem_of(const MatmulWork& w, const Plan& plan) {
  const MatmulFisher& f = w.fisher;
  Problem p{};
  p.grad = grad_of(w), p.input = input_of(w);
  for (Operand* x : {&p.grad, &p.input}) {
    if (plan.flat) {
      x->positions = f.N, x->position_stride = x->sample_stride;
      x->features_fast = x->features > 1 && x->feature_stride <= x->position_stride;
    }
    x->vector_bytes = plan.tensor ? vector_bytes(*x, w) : 0;
  }
  p.batch = f.N, p.splits = plan.splits, p.O = f.O, p.I = f.I, p.groups = w.groups;
  p.weights = f.weights, p.fisher = f.fisher, p.gradient = f.gradient;
  p.group_stride = f.group_stride, p.overwrite = f.overwrite;
  return p;
}

template <class C>
cudaError_t start(void (*kernel)(Problem), const Problem& p, int64_t G, cudaStream_t stream) {
  const int64_t tiles = ((p.O + C::kRows - 1) / C::kRows) * ((p.I + C::kColumns - 1) / C::kColumns);
  const dim3 grid(unsigned(tiles), unsigned(p.splits), unsigned(p.groups * G));
  return launch(kernel, grid, kThreads, C::kShared, stream, p);
}

template <class E>
cudaError_t start_tensor(const Plan& plan, const Problem& p, int64_t G, cudaStream_t stream) {
  using Large = Config<E, 128, 128, 2, false, true>;
  using Both = Config<E, 128, 64, 4, true, false>;
  using Small = Config<E, 64, 64, 2, true, false>;
  if (plan.columns == 128) return start<Large>(tensor_kernel<Large>, p, G, stream);
  if (plan.rows == 128) return start<Both>(tensor_kernel<Both>, p, G, stream);
  return start<Small>(tensor_kernel<Small>, p, G, stream);
}

template <class E>
cudaError_t start_exact(const Plan& plan, const Problem& p, int64_t G, cudaStream_t stream) {
  using Large = Exact<E, 128, false, false>;
  using Small = Exact<E, 64, true, false>;
  if constexpr (!std::is_same_v<E, double>)
    if (plan.columns == 128) return start<Large>(exact_kernel<Large>, p, G, stream);
  return start<Small>(exact_kernel<Small>, p, G, stream);
}

// The square of the samples' products, and the products for the gradient, one after the other.
template <class E>
cudaError_t start_flat(const Plan& plan, Problem p, int64_t G, cudaStream_t stream) {
  using Large = Exact<E, 128, false, true>;
  using Small = Exact<E, 64, false, true>;
  void* const results[] = {p.gradient, p.fisher};
  p.gradient = nullptr;
  for (const int power : {1, 2}) {
    p.power = power, p.fisher = results[power - 1];
    if (p.fisher == nullptr) continue;
    cudaError_t error = cudaSuccess;
    if constexpr (!std::is_same_v<E, double>)
      if (plan.columns == 128) error = start<Large>(exact_kernel<Large>, p, G, stream);
    if (std::is_same_v<E, double> || plan.columns != 128)
      error = start<Small>(exact_kernel<Small>, p, G, stream);
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
  Problem p = problem_of(w, plan);
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
      if (plan.tensor) return start_tensor<E>(plan, p, f.G, stream);
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
