// fisher_linear, fisher_convolution, fisher_affine, fisher_embedding on the CPU.
#include <algorithm>
#include <cstring>

#include "../kernels/cpu/dispatch.h"
#include "fisher_arguments.h"

namespace fastforget {
namespace {

using torch::stable::parallel_for;

// The samples of a batch with a weight in groups [first, last): others are left out of all work.
std::vector<int64_t> samples_of(const void* weights, DType dtype, int64_t batch, int64_t first,
                                int64_t last) {
  const auto used = [&](int64_t at) {
    return dtype == DType::f64 ? static_cast<const double*>(weights)[at] != 0
                               : static_cast<const float*>(weights)[at] != 0;
  };
  std::vector<int64_t> list;
  for (int64_t n = 0; n < batch; ++n) {
    bool any = false;
    for (int64_t g = first; g < last; ++g) any = any || used(g * batch + n);
    if (any) list.push_back(n);
  }
  return list;
}

void fill_zero(void* data, int64_t elements, DType dtype) {
  if (data) std::memset(data, 0, static_cast<size_t>(elements * (dtype == DType::f64 ? 8 : 4)));
}

// The results of the groups [first, last) that no kernel is going to write.
void clear_results(const MatmulFisher& f, int64_t first, int64_t last) {
  for (int64_t g = first; g < last; ++g)
    for (void* result : {f.fisher, f.gradient})
      fill_zero(moved_sum(result, g * f.group_stride, f.dtype), f.O * f.I, f.dtype);
}

// Packed grad that several threads share before they take up the products.
constexpr int64_t kPackedTogether = 16 << 20;  // bytes

// Runs the tiled kernel over chunks of samples; see kernels/fisher.h for the two passes. One thread
// packs and uses a chunk at a time, from its cache. Several would wait for each other twice a
// chunk: they pack many chunks, then go through them unit by unit. Neither changes what is summed
// when.
void run_matmul(const MatmulFisher& f) {
  const FisherKernels& kernels = cpu::fisher_kernels();
  const int64_t threads = torch::stable::get_num_threads();
  const MatmulPlan plan = kernels.matmul_plan(f, threads);
  const int64_t chunks = (f.N + plan.chunk - 1) / plan.chunk;
  int64_t together = threads > 1 ? chunks : 1;
  if (!plan.own_grad)
    together = std::clamp<int64_t>(kPackedTogether / plan.packed_bytes, 1, together);
  const Buffer packed(together * plan.packed_bytes), lists(plan.list_bytes);
  if (plan.listed) kernels.matmul_list(f, plan, lists.get());
  for (int64_t first = 0; first < chunks; first += together) {
    const auto each_chunk = [&](const auto& run) {
      for (int64_t c = first; c < std::min(chunks, first + together); ++c)
        run(c * plan.chunk, std::min(f.N, (c + 1) * plan.chunk),
            static_cast<char*>(packed.get()) + (c - first) * plan.packed_bytes);
    };
    if (!plan.own_grad)
      parallel_for(0, plan.row_tiles, 1, [&](int64_t begin, int64_t end) {
        each_chunk([&](int64_t n0, int64_t n1, void* to) {
          kernels.matmul_pack(f, plan, n0, n1, to, begin, end);
        });
      });
    parallel_for(0, plan.units, 1, [&](int64_t begin, int64_t end) {
      const Buffer scratch(plan.scratch_bytes);
      each_chunk([&](int64_t n0, int64_t n1, const void* from) {
        kernels.matmul_accumulate(f, plan, n0, n1, lists.get(), from, scratch.get(), begin, end);
      });
    });
  }
}

// T = 1: two plain matrix products per group, over the samples of that group only.
void run_flat(MatmulFisher f) {
  for (int64_t g = 0; g < f.G; ++g) {
    const std::vector<int64_t> samples = samples_of(f.weights, f.dtype, f.batch, g, g + 1);
    f.samples = samples.data();
    f.N = static_cast<int64_t>(samples.size());
    f.flat_group = g;
    if (f.overwrite && f.N == 0) clear_results(f, g, g + 1);
    if (f.N == 0) continue;
    for (const int power : {1, 2}) {
      f.flat_power = power;
      if (power == 1 ? f.gradient : f.fisher) run_matmul(f);
    }
  }
}

void run_tiled(MatmulFisher f) {
  if (f.O == 0 || f.I == 0) return;
  if (f.T == 1) return run_flat(f);
  const std::vector<int64_t> samples = samples_of(f.weights, f.dtype, f.batch, 0, f.G);
  f.samples = samples.data();
  f.N = static_cast<int64_t>(samples.size());
  if (f.N > 0 && f.T > 0) return run_matmul(f);
  if (f.overwrite) clear_results(f, 0, f.G);
}

void run_affine(const AffineFisher& f) {
  parallel_for(0, f.P, 1,
               [&](int64_t begin, int64_t end) { cpu::fisher_kernels().affine(f, begin, end); });
}

void run_direct(MatmulFisher f, int64_t groups) {
  const std::vector<int64_t> samples = samples_of(f.weights, f.dtype, f.batch, 0, f.G);
  f.samples = samples.data();
  f.N = static_cast<int64_t>(samples.size());
  if (f.overwrite)
    for (void* result : {f.fisher, f.gradient}) fill_zero(result, f.G * f.group_stride, f.dtype);
  if (f.bias_fisher || f.bias_gradient) run_affine(bias_of(f, groups * f.O));
  parallel_for(0, groups, 16, [&](int64_t begin, int64_t end) {
    const Buffer scratch(cpu::fisher_kernels().direct_bytes(f));
    cpu::fisher_kernels().direct(f, scratch.get(), begin, end);
  });
}

void fisher_linear(const Tensor& grad, const Tensor& input, const Tensor& weights,
                   const OptionalTensor& fisher, const OptionalTensor& gradient,
                   const OptionalTensor& bias_fisher, const OptionalTensor& bias_gradient,
                   bool overwrite, bool) {
  run_tiled(linear_arguments(grad, input, weights, fisher, gradient, bias_fisher, bias_gradient,
                             overwrite));
}

void fisher_convolution(const Tensor& grad, const Tensor& input, const Tensor& weights,
                        const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                        const std::vector<int64_t>& dilation, int64_t groups,
                        const OptionalTensor& fisher, const OptionalTensor& gradient,
                        const OptionalTensor& bias_fisher, const OptionalTensor& bias_gradient,
                        bool overwrite, bool) {
  ConvolutionArguments work(grad, input, weights, stride, padding, dilation, groups, fisher,
                            gradient, bias_fisher, bias_gradient, overwrite);
  // A register tile wants rows; groups with a handful of them are dot products.
  if (groups > 1 && work.f.O <= 4 && work.f.T > 0) return run_direct(work.f, groups);
  for (int64_t group = 0; group < groups; ++group, work.advance()) run_tiled(work.f);
}

void fisher_affine(const Tensor& grad, const OptionalTensor& input, const OptionalTensor& mean,
                   const OptionalTensor& rstd, const Tensor& weights,
                   const OptionalTensor& scale_fisher, const OptionalTensor& scale_gradient,
                   const OptionalTensor& shift_fisher, const OptionalTensor& shift_gradient) {
  AffineFisher f = affine_arguments(grad, input, mean, rstd, weights, scale_fisher, scale_gradient,
                                    shift_fisher, shift_gradient);
  const std::vector<int64_t> samples = samples_of(f.weights, f.dtype, f.batch, 0, f.G);
  f.samples = samples.data(), f.N = static_cast<int64_t>(samples.size());
  run_affine(f);
}

// Positions of each sample sorted by token, padding left out.
struct TokenOrder {
  TokenOrder(const int64_t* tokens, int64_t batch, int64_t T, int64_t padding)
      : order(static_cast<size_t>(batch * T)), count(static_cast<size_t>(batch)) {
    for (int64_t n = 0; n < batch; ++n) {
      int64_t* first = order.data() + n * T;
      int64_t* last = first;
      for (int64_t t = 0; t < T; ++t)
        if (tokens[n * T + t] != padding) *last++ = t;
      std::stable_sort(first, last,
                       [&](int64_t a, int64_t b) { return tokens[n * T + a] < tokens[n * T + b]; });
      count[static_cast<size_t>(n)] = last - first;
    }
  }
  std::vector<int64_t> order, count;
};

void fisher_embedding(const Tensor& grad, const Tensor& tokens, const Tensor& weights,
                      int64_t padding_idx, const OptionalTensor& fisher,
                      const OptionalTensor& gradient) {
  EmbeddingFisher f = embedding_arguments(grad, tokens, weights, fisher, gradient);
  for (int64_t i = 0; i < tokens.numel(); ++i)
    STD_TORCH_CHECK(f.tokens[i] >= 0 && f.tokens[i] < f.V, "`tokens` must lie in [0, ", f.V,
                    "), got ", f.tokens[i]);
  const TokenOrder order(f.tokens, f.batch, f.T, padding_idx);
  f.order = order.order.data(), f.count = order.count.data();
  const std::vector<int64_t> samples = samples_of(f.weights, f.dtype, f.batch, 0, f.G);
  f.samples = samples.data(), f.N = static_cast<int64_t>(samples.size());
  parallel_for(0, f.D, 16, [&](int64_t begin, int64_t end) {
    const Buffer scratch((end - begin) * 8);
    cpu::fisher_kernels().embedding(f, scratch.get(), begin, end);
  });
}

}  // namespace
}  // namespace fastforget

STABLE_TORCH_LIBRARY_IMPL(fastforget, CPU, m) {
  m.impl("fisher_linear", TORCH_BOX(&fastforget::fisher_linear));
  m.impl("fisher_convolution", TORCH_BOX(&fastforget::fisher_convolution));
  m.impl("fisher_affine", TORCH_BOX(&fastforget::fisher_affine));
  m.impl("fisher_embedding", TORCH_BOX(&fastforget::fisher_embedding));
}
