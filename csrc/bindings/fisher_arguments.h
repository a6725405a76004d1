// What the Fisher operators ask of their arguments, on any device, and the kernels' view of them.
#pragma once

#include <algorithm>
#include <array>

#include "../kernels/fisher.h"
#include "check.h"

namespace fastforget {

// Per-sample weights [G, batch].
struct Weights {
  Weights(const Tensor& weights, int64_t batch, DType dtype) {
    check_dim(weights, "weights", 2);
    G = weights.size(0);
    check_size(weights, "weights", 1, batch);
    check_type(weights, "weights", sum_type(dtype));
    check_contiguous(weights, "weights");
    data = weights.const_data_ptr();
  }

  int64_t G;
  const void* data;
};

inline void check_result(const OptionalTensor& result, const char* name, DType dtype,
                         const std::vector<int64_t>& shape) {
  if (!result) return;
  check_dim(*result, name, static_cast<int64_t>(shape.size()));
  for (size_t d = 0; d < shape.size(); ++d)
    check_size(*result, name, static_cast<int64_t>(d), shape[d]);
  check_type(*result, name, sum_type(dtype));
  check_contiguous(*result, name);
}

// A weight's results and its bias's, [G, O].
inline void check_bias(const OptionalTensor& fisher, const OptionalTensor& gradient,
                       const OptionalTensor& bias_fisher, const OptionalTensor& bias_gradient,
                       DType dtype, int64_t G, int64_t O) {
  check_result(bias_fisher, "bias_fisher", dtype, {G, O});
  check_result(bias_gradient, "bias_gradient", dtype, {G, O});
  STD_TORCH_CHECK((fisher || !bias_fisher) && (gradient || !bias_gradient),
                  "the results of a bias must come with those of the weight");
}

inline MatmulFisher linear_arguments(const Tensor& grad, const Tensor& input, const Tensor& weights,
                                     const OptionalTensor& fisher, const OptionalTensor& gradient,
                                     const OptionalTensor& bias_fisher,
                                     const OptionalTensor& bias_gradient, bool overwrite) {
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
  f.N = f.batch = grad.size(0), f.G = groups.G, f.T = grad.size(1), f.O = O, f.I = I;
  f.grad = grad.const_data_ptr(), f.input = input.const_data_ptr();
  for (int d = 0; d < 3; ++d)
    f.grad_stride[d] = grad.stride(d), f.input_stride[d] = input.stride(d);
  f.weights = groups.data;
  f.fisher = mutable_data_of(fisher), f.gradient = mutable_data_of(gradient);
  f.group_stride = O * I, f.overwrite = overwrite;
  f.bias_fisher = mutable_data_of(bias_fisher), f.bias_gradient = mutable_data_of(bias_gradient);
  f.bias_stride = O;
  return f;
}

// One- and two-dimensional arguments, padded in front to three dimensions.
inline std::array<int64_t, 3> spatial(const std::vector<int64_t>& values, int64_t dims,
                                      int64_t fill, const char* name) {
  STD_TORCH_CHECK(static_cast<int64_t>(values.size()) == dims, "`", name, "` must have ", dims,
                  " values, got ", values.size());
  std::array<int64_t, 3> out{fill, fill, fill};
  std::copy(values.begin(), values.end(), out.end() - dims);
  return out;
}

inline void fill_patches(Patches& p, const Tensor& grad, const Tensor& input, const Tensor& shape,
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
inline std::optional<int64_t> position_stride(const Tensor& t) {
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

inline int64_t element_size(DType dtype) {
  return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2;
}

inline const void* moved(const void* data, int64_t elements, DType dtype) {
  return static_cast<const char*>(data) + elements * element_size(dtype);
}

inline void* moved_sum(void* data, int64_t elements, DType dtype) {
  return data ? static_cast<char*>(data) + elements * (dtype == DType::f64 ? 8 : 4) : nullptr;
}

// A convolution as the kernels see it: `f` holds a pointer to `p`, and pointers to the first of the
// convolution groups.
struct ConvolutionArguments {
  ConvolutionArguments(const Tensor& grad, const Tensor& input, const Tensor& weights,
                       const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                       const std::vector<int64_t>& dilation, int64_t groups,
                       const OptionalTensor& fisher, const OptionalTensor& gradient,
                       const OptionalTensor& bias_fisher, const OptionalTensor& bias_gradient,
                       bool overwrite)
      : groups(groups) {
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
    rows = position_stride(grad) ? grad : torch::stable::contiguous(grad);
    f.dtype = dtype;
    f.N = f.batch = grad.size(0), f.G = sample_weights.G, f.T = p.out[0] * p.out[1] * p.out[2];
    f.O = grad.size(1) / groups, f.I = p.channels * p.kernel[0] * p.kernel[1] * p.kernel[2];
    f.grad_stride[0] = rows.stride(0), f.grad_stride[1] = position_stride(rows).value_or(1),
    f.grad_stride[2] = rows.stride(1);
    f.input_stride[0] = input.stride(0);
    f.patches = &p;
    f.weights = sample_weights.data;
    f.group_stride = grad.size(1) * f.I, f.overwrite = overwrite;
    f.bias_fisher = mutable_data_of(bias_fisher), f.bias_gradient = mutable_data_of(bias_gradient);
    f.bias_stride = grad.size(1);
    f.conv_grad_stride = f.O * f.grad_stride[2];
    f.conv_input_stride = p.channels * p.in_stride[0];
    f.grad = rows.const_data_ptr(), f.input = input.const_data_ptr();
    f.fisher = mutable_data_of(fisher), f.gradient = mutable_data_of(gradient);
  }
  ConvolutionArguments(const ConvolutionArguments&) = delete;
  ConvolutionArguments& operator=(const ConvolutionArguments&) = delete;

  // Goes on to the next convolution group.
  void advance() {
    f.grad = moved(f.grad, f.conv_grad_stride, f.dtype);
    f.input = moved(f.input, f.conv_input_stride, f.dtype);
    for (void** result : {&f.fisher, &f.gradient}) *result = moved_sum(*result, f.O * f.I, f.dtype);
    for (void** result : {&f.bias_fisher, &f.bias_gradient})
      *result = moved_sum(*result, f.O, f.dtype);
  }

  int64_t groups;
  MatmulFisher f{};
  Patches p{};
  Tensor rows;  // grad, whose positions are one axis
};

// The bias of a linear layer or a convolution of some channels as a shift of [N, 1, O, T].
inline AffineFisher bias_of(const MatmulFisher& f, int64_t channels) {
  AffineFisher bias{};
  bias.dtype = f.dtype, bias.G = f.G, bias.N = f.N, bias.A = 1, bias.P = channels, bias.B = f.T;
  bias.samples = f.samples, bias.grad = f.grad;
  const int64_t strides[] = {f.grad_stride[0], 0, f.grad_stride[2], f.grad_stride[1]};
  std::copy_n(strides, 4, bias.grad_stride);
  bias.weights = f.weights, bias.batch = f.batch;
  bias.shift_fisher = f.bias_fisher, bias.shift_gradient = f.bias_gradient;
  return bias;
}

inline void check_statistic(const OptionalTensor& t, const char* name, const Tensor& grad,
                            DType dtype) {
  if (!t) return;
  check_dim(*t, name, 3);
  check_type(*t, name, sum_type(dtype));
  for (int64_t d = 0; d < 3; ++d) check_size(*t, name, d, grad.size(d));
}

inline AffineFisher affine_arguments(const Tensor& grad, const OptionalTensor& input,
                                     const OptionalTensor& mean, const OptionalTensor& rstd,
                                     const Tensor& weights, const OptionalTensor& scale_fisher,
                                     const OptionalTensor& scale_gradient,
                                     const OptionalTensor& shift_fisher,
                                     const OptionalTensor& shift_gradient) {
  const DType dtype = dtype_of(grad, "grad");
  check_dim(grad, "grad", 4);
  const Weights groups(weights, grad.size(0), dtype);
  AffineFisher f{};
  f.dtype = dtype;
  f.N = f.batch = grad.size(0), f.G = groups.G, f.A = grad.size(1), f.P = grad.size(2),
  f.B = grad.size(3);
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
  f.weights = groups.data;
  return f;
}

inline EmbeddingFisher embedding_arguments(const Tensor& grad, const Tensor& tokens,
                                           const Tensor& weights, const OptionalTensor& fisher,
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
  EmbeddingFisher f{};
  f.dtype = dtype;
  f.N = f.batch = grad.size(0), f.G = groups.G, f.T = grad.size(1), f.V = V, f.D = D;
  f.grad = grad.const_data_ptr();
  for (int d = 0; d < 3; ++d) f.grad_stride[d] = grad.stride(d);
  f.tokens = static_cast<const int64_t*>(tokens.const_data_ptr()), f.weights = groups.data;
  f.fisher = mutable_data_of(fisher), f.gradient = mutable_data_of(gradient);
  return f;
}

}  // namespace fastforget
