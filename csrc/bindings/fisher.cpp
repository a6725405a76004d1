// fisher_linear, fisher_convolution, fisher_affine, fisher_embedding on the CPU.
#include "../kernels/fisher.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "../kernels/cpu/dispatch.h"
#include "check.h"

namespace fastforget {
namespace {

using torch::stable::parallel_for;

// Per-sample weights [G, batch]: samples that no group wants are left out of all work.
struct Weights {
  Weights(const Tensor& weights, int64_t batch, DType dtype) : batch(batch), dtype(dtype) {
    check_dim(weights, "weights", 2);
    G = weights.size(0);
    check_size(weights, "weights", 1, batch);
    check_type(weights, "weights", sum_type(dtype));
    check_contiguous(weights, "weights");
    data = weights.const_data_ptr();
  }

  bool used(int64_t g, int64_t n) const {
    const int64_t at = g * batch + n;
    return dtype == DType::f64 ? static_cast<const double*>(data)[at] != 0
                               : static_cast<const float*>(data)[at] != 0;
  }

  // Samples with a weight in groups [first, last).
  std::vector<int64_t> samples(int64_t first, int64_t last) const {
    std::vector<int64_t> list;
    for (int64_t n = 0; n < batch; ++n) {
      bool any = false;
      for (int64_t g = first; g < last; ++g) any = any || used(g, n);
      if (any) list.push_back(n);
    }
    return list;
  }

  int64_t G, batch;
  DType dtype;
  const void* data;
};

void check_result(const OptionalTensor& result, const char* name, DType dtype,
                  const std::vector<int64_t>& shape) {
  if (!result) return;
  check_dim(*result, name, static_cast<int64_t>(shape.size()));
  for (size_t d = 0; d < shape.size(); ++d)
    check_size(*result, name, static_cast<int64_t>(d), shape[d]);
  check_type(*result, name, sum_type(dtype));
  check_contiguous(*result, name);
}

int64_t element_size(DType dtype) { return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2; }

const void* advance(const void* data, int64_t elements, DType dtype) {
  return static_cast<const char*>(data) + elements * element_size(dtype);
}

void* advance_sum(void* data, int64_t elements, DType dtype) {
  return data ? static_cast<char*>(data) + elements * (dtype == DType::f64 ? 8 : 4) : nullptr;
}

void fill_zero(void* data, int64_t elements, DType dtype) {
  if (data) std::memset(data, 0, static_cast<size_t>(elements * (dtype == DType::f64 ? 8 : 4)));
}

// The results of the groups [first, last) that no kernel is going to write.
void clear_results(const MatmulFisher& f, int64_t first, int64_t last) {
  for (int64_t g = first; g < last; ++g)
    for (void* result : {f.fisher, f.gradient})
      fill_zero(advance_sum(result, g * f.group_stride, f.dtype), f.O * f.I, f.dtype);
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
void run_flat(MatmulFisher f, const Weights& weights) {
  for (int64_t g = 0; g < f.G; ++g) {
    const std::vector<int64_t> samples = weights.samples(g, g + 1);
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

void run_tiled(MatmulFisher f, const Weights& weights) {
  if (f.O == 0 || f.I == 0) return;
  if (f.T == 1) return run_flat(f, weights);
  const std::vector<int64_t> samples = weights.samples(0, f.G);
  f.samples = samples.data();
  f.N = static_cast<int64_t>(samples.size());
  if (f.N > 0 && f.T > 0) return run_matmul(f);
  if (f.overwrite) clear_results(f, 0, f.G);
}

void run_affine(const AffineFisher& f) {
  parallel_for(0, f.P, 1,
               [&](int64_t begin, int64_t end) { cpu::fisher_kernels().affine(f, begin, end); });
}

// The bias of a convolution as a shift of [N, 1, O, T].
void run_bias(const MatmulFisher& f, int64_t channels) {
  AffineFisher bias{};
  bias.dtype = f.dtype, bias.G = f.G, bias.N = f.N, bias.A = 1, bias.P = channels, bias.B = f.T;
  bias.samples = f.samples, bias.grad = f.grad;
  const int64_t strides[] = {f.grad_stride[0], 0, f.grad_stride[2], f.grad_stride[1]};
  std::copy_n(strides, 4, bias.grad_stride);
  bias.weights = f.weights, bias.batch = f.batch;
  bias.shift_fisher = f.bias_fisher, bias.shift_gradient = f.bias_gradient;
  run_affine(bias);
}

void run_direct(MatmulFisher f, const Weights& weights, int64_t groups) {
  const std::vector<int64_t> samples = weights.samples(0, f.G);
  f.samples = samples.data();
  f.N = static_cast<int64_t>(samples.size());
  if (f.overwrite)
    for (void* result : {f.fisher, f.gradient}) fill_zero(result, f.G * f.group_stride, f.dtype);
  if (f.bias_fisher || f.bias_gradient) run_bias(f, groups * f.O);
  parallel_for(0, groups, 16, [&](int64_t begin, int64_t end) {
    const Buffer scratch(cpu::fisher_kernels().direct_bytes(f));
    cpu::fisher_kernels().direct(f, scratch.get(), begin, end);
  });
}

// A weight's results and its bias's, [G, O].
void check_bias(const OptionalTensor& fisher, const OptionalTensor& gradient,
                const OptionalTensor& bias_fisher, const OptionalTensor& bias_gradient, DType dtype,
                int64_t G, int64_t O) {
  check_result(bias_fisher, "bias_fisher", dtype, {G, O});
  check_result(bias_gradient, "bias_gradient", dtype, {G, O});
  STD_TORCH_CHECK((fisher || !bias_fisher) && (gradient || !bias_gradient),
                  "the results of a bias must come with those of the weight");
}

void fisher_linear(const Tensor& grad, const Tensor& input, const Tensor& weights,
                   const OptionalTensor& fisher, const OptionalTensor& gradient,
                   const OptionalTensor& bias_fisher, const OptionalTensor& bias_gradient,
                   bool overwrite) {
  const DType dtype = dtype_of(grad, "grad");
  check_dim(grad, "grad", 3);
  check_dim(input, "input", 3);
  check_type(input, "input", grad.scalar_type());
  check_size(input, "input", 0, grad.size(0));
  check_size(input, "input", 1, grad.size(1));
  const Weights groups(weights, grad.size(0), dtype);
  const int64_t O = grad.size(2), I = input.size(2);
  check_result(fisher, "fisher", dtype, {groups.G, O, I});
  check_result(gradient, "gradient", dtype, {groups.G, O, I});
  check_bias(fisher, gradient, bias_fisher, bias_gradient, dtype, groups.G, O);
  MatmulFisher f{};
  f.dtype = dtype;
  f.G = groups.G, f.T = grad.size(1), f.O = O, f.I = I;
  f.grad = grad.const_data_ptr(), f.input = input.const_data_ptr();
  for (int d = 0; d < 3; ++d)
    f.grad_stride[d] = grad.stride(d), f.input_stride[d] = input.stride(d);
  f.weights = groups.data, f.batch = groups.batch;
  f.fisher = mutable_data_of(fisher), f.gradient = mutable_data_of(gradient);
  f.group_stride = O * I, f.overwrite = overwrite;
  f.bias_fisher = mutable_data_of(bias_fisher), f.bias_gradient = mutable_data_of(bias_gradient);
  f.bias_stride = O;
  run_tiled(f, groups);
}

// One- and two-dimensional arguments, padded in front to three dimensions.
std::array<int64_t, 3> spatial(const std::vector<int64_t>& values, int64_t dims, int64_t fill,
                               const char* name) {
  STD_TORCH_CHECK(static_cast<int64_t>(values.size()) == dims, "`", name, "` must have ", dims,
                  " values, got ", values.size());
  std::array<int64_t, 3> out{fill, fill, fill};
  std::copy(values.begin(), values.end(), out.end() - dims);
  return out;
}

void fill_patches(Patches& p, const Tensor& grad, const Tensor& input, const Tensor& shape,
                  int64_t dims) {
  for (int d = 0; d < 3; ++d) {
    const int64_t at = d + dims - 1;  // dimension of the tensors that holds spatial dimension d
    const bool real = d >= 3 - dims;
    p.size[d] = real ? input.size(at) : 1;
    p.out[d] = real ? grad.size(at) : 1;
    p.kernel[d] = real ? shape.size(at + 1) : 1;
    p.in_stride[d + 1] = real ? input.stride(at) : 0;
  }
  p.in_stride[0] = input.stride(1);
}

// The stride of the T positions of [N, O, *out] where they form one strided axis. The stride of a
// dimension of size one means nothing, also in a contiguous tensor.
std::optional<int64_t> position_stride(const Tensor& t) {
  std::optional<int64_t> stride;
  int64_t next = 0;
  for (int64_t d = t.dim() - 1; d >= 2; --d) {
    if (t.size(d) == 1) continue;
    if (stride && t.stride(d) != next) return std::nullopt;
    if (!stride) stride = t.stride(d);
    next = t.stride(d) * t.size(d);
  }
  return stride.value_or(1);
}

void fisher_convolution(const Tensor& grad, const Tensor& input, const Tensor& weights,
                        const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                        const std::vector<int64_t>& dilation, int64_t groups,
                        const OptionalTensor& fisher, const OptionalTensor& gradient,
                        const OptionalTensor& bias_fisher, const OptionalTensor& bias_gradient,
                        bool overwrite) {
  const DType dtype = dtype_of(grad, "grad");
  const int64_t dims = grad.dim() - 2;
  STD_TORCH_CHECK(dims >= 1 && dims <= 3, "`grad` must be 3-D, 4-D or 5-D, got shape ",
                  shape_text(grad));
  check_dim(input, "input", dims + 2);
  check_type(input, "input", grad.scalar_type());
  check_size(input, "input", 0, grad.size(0));
  STD_TORCH_CHECK(groups >= 1 && grad.size(1) % groups == 0 && input.size(1) % groups == 0,
                  "`groups` must divide the channels of `grad` and `input`, got ", groups);
  STD_TORCH_CHECK(fisher || gradient, "`fisher` or `gradient` must be given");
  const Tensor& shape = fisher ? *fisher : *gradient;
  check_dim(shape, fisher ? "fisher" : "gradient", dims + 3);
  const Weights sample_weights(weights, grad.size(0), dtype);
  Patches p{};
  p.channels = input.size(1) / groups;
  fill_patches(p, grad, input, shape, dims);
  std::copy_n(spatial(stride, dims, 1, "stride").begin(), 3, p.stride);
  std::copy_n(spatial(padding, dims, 0, "padding").begin(), 3, p.padding);
  std::copy_n(spatial(dilation, dims, 1, "dilation").begin(), 3, p.dilation);
  std::vector<int64_t> expected{sample_weights.G, grad.size(1), p.channels};
  for (int64_t d = 0; d < dims; ++d) expected.push_back(shape.size(3 + d));
  check_result(fisher, "fisher", dtype, expected);
  check_result(gradient, "gradient", dtype, expected);
  check_bias(fisher, gradient, bias_fisher, bias_gradient, dtype, sample_weights.G, grad.size(1));
  for (int d = 0; d < 3; ++d) {
    STD_TORCH_CHECK(p.stride[d] >= 1 && p.dilation[d] >= 1 && p.padding[d] >= 0,
                    "`stride` and `dilation` must be positive and `padding` not negative");
    STD_TORCH_CHECK((p.out[d] - 1) * p.stride[d] + (p.kernel[d] - 1) * p.dilation[d] <
                        p.size[d] + 2 * p.padding[d] + p.stride[d],
                    "`grad` of shape ", shape_text(grad), " cannot come from `input` of shape ",
                    shape_text(input));
  }

  // The T positions must form one strided axis; copy grad where they do not (channels-last does).
  const Tensor rows = position_stride(grad) ? grad : torch::stable::contiguous(grad);
  MatmulFisher f{};
  f.dtype = dtype;
  f.G = sample_weights.G, f.T = p.out[0] * p.out[1] * p.out[2];
  f.O = grad.size(1) / groups, f.I = p.channels * p.kernel[0] * p.kernel[1] * p.kernel[2];
  f.grad_stride[0] = rows.stride(0), f.grad_stride[1] = position_stride(rows).value_or(1),
  f.grad_stride[2] = rows.stride(1);
  f.input_stride[0] = input.stride(0);
  f.patches = &p;
  f.weights = sample_weights.data, f.batch = sample_weights.batch;
  f.group_stride = grad.size(1) * f.I, f.overwrite = overwrite;
  f.bias_fisher = mutable_data_of(bias_fisher), f.bias_gradient = mutable_data_of(bias_gradient);
  f.bias_stride = grad.size(1);
  f.conv_grad_stride = f.O * f.grad_stride[2];
  f.conv_input_stride = p.channels * p.in_stride[0];
  f.grad = rows.const_data_ptr(), f.input = input.const_data_ptr();
  f.fisher = mutable_data_of(fisher), f.gradient = mutable_data_of(gradient);
  // A register tile wants rows; groups with a handful of them are dot products.
  if (groups > 1 && f.O <= 4 && f.T > 0) return run_direct(f, sample_weights, groups);
  for (int64_t group = 0; group < groups; ++group) {
    run_tiled(f, sample_weights);
    f.grad = advance(f.grad, f.conv_grad_stride, dtype);
    f.input = advance(f.input, f.conv_input_stride, dtype);
    f.fisher = advance_sum(f.fisher, f.O * f.I, dtype);
    f.gradient = advance_sum(f.gradient, f.O * f.I, dtype);
    f.bias_fisher = advance_sum(f.bias_fisher, f.O, dtype);
    f.bias_gradient = advance_sum(f.bias_gradient, f.O, dtype);
  }
}

void check_statistic(const OptionalTensor& t, const char* name, const Tensor& grad, DType dtype) {
  if (!t) return;
  check_dim(*t, name, 3);
  check_type(*t, name, sum_type(dtype));
  for (int64_t d = 0; d < 3; ++d) check_size(*t, name, d, grad.size(d));
}

void fisher_affine(const Tensor& grad, const OptionalTensor& input, const OptionalTensor& mean,
                   const OptionalTensor& rstd, const Tensor& weights,
                   const OptionalTensor& scale_fisher, const OptionalTensor& scale_gradient,
                   const OptionalTensor& shift_fisher, const OptionalTensor& shift_gradient) {
  const DType dtype = dtype_of(grad, "grad");
  check_dim(grad, "grad", 4);
  const Weights groups(weights, grad.size(0), dtype);
  AffineFisher f{};
  f.dtype = dtype;
  f.G = groups.G, f.A = grad.size(1), f.P = grad.size(2), f.B = grad.size(3);
  f.grad = grad.const_data_ptr();
  for (int d = 0; d < 4; ++d) f.grad_stride[d] = grad.stride(d);
  STD_TORCH_CHECK(input || !(scale_fisher || scale_gradient), "`input` must be given for a scale");
  if (input && (scale_fisher || scale_gradient)) {
    check_dim(*input, "input", 4);
    check_type(*input, "input", grad.scalar_type());
    for (int d = 0; d < 4; ++d)
      check_size(*input, "input", d, grad.size(d)), f.input_stride[d] = input->stride(d);
    f.input = input->const_data_ptr();
  }
  check_statistic(mean, "mean", grad, dtype);
  check_statistic(rstd, "rstd", grad, dtype);
  f.mean = data_of(mean), f.rstd = data_of(rstd);
  for (int d = 0; d < 3; ++d) {
    f.mean_stride[d] = mean ? mean->stride(d) : 0;
    f.rstd_stride[d] = rstd ? rstd->stride(d) : 0;
  }
  const char* names[] = {"scale_fisher", "scale_gradient", "shift_fisher", "shift_gradient"};
  const OptionalTensor* results[] = {&scale_fisher, &scale_gradient, &shift_fisher,
                                     &shift_gradient};
  for (int i = 0; i < 4; ++i) check_result(*results[i], names[i], dtype, {f.G, f.P});
  f.scale_fisher = mutable_data_of(scale_fisher),
  f.scale_gradient = mutable_data_of(scale_gradient);
  f.shift_fisher = mutable_data_of(shift_fisher),
  f.shift_gradient = mutable_data_of(shift_gradient);
  f.weights = groups.data, f.batch = groups.batch;
  const std::vector<int64_t> samples = groups.samples(0, groups.G);
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
  const DType dtype = dtype_of(grad, "grad");
  check_dim(grad, "grad", 3);
  check_dim(tokens, "tokens", 2);
  check_type(tokens, "tokens", ScalarType::Long);
  check_contiguous(tokens, "tokens");
  check_size(tokens, "tokens", 0, grad.size(0));
  check_size(tokens, "tokens", 1, grad.size(1));
  STD_TORCH_CHECK(fisher || gradient, "`fisher` or `gradient` must be given");
  const Tensor& shape = fisher ? *fisher : *gradient;
  check_dim(shape, fisher ? "fisher" : "gradient", 3);
  const Weights groups(weights, grad.size(0), dtype);
  const int64_t V = shape.size(1), D = grad.size(2);
  check_result(fisher, "fisher", dtype, {groups.G, V, D});
  check_result(gradient, "gradient", dtype, {groups.G, V, D});
  const int64_t* values = static_cast<const int64_t*>(tokens.const_data_ptr());
  for (int64_t i = 0; i < tokens.numel(); ++i)
    STD_TORCH_CHECK(values[i] >= 0 && values[i] < V, "`tokens` must lie in [0, ", V, "), got ",
                    values[i]);
  const TokenOrder order(values, grad.size(0), grad.size(1), padding_idx);
  EmbeddingFisher f{};
  f.dtype = dtype;
  f.G = groups.G, f.T = grad.size(1), f.V = V, f.D = D;
  f.grad = grad.const_data_ptr();
  for (int d = 0; d < 3; ++d) f.grad_stride[d] = grad.stride(d);
  f.tokens = values, f.order = order.order.data(), f.count = order.count.data();
  f.weights = groups.data, f.batch = groups.batch;
  f.fisher = mutable_data_of(fisher), f.gradient = mutable_data_of(gradient);
  const std::vector<int64_t> samples = groups.samples(0, groups.G);
  f.samples = samples.data(), f.N = static_cast<int64_t>(samples.size());
  parallel_for(0, D, 16, [&](int64_t begin, int64_t end) {
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
