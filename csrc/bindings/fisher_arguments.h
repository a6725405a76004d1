// What the Fisher operators ask of their arguments, on any device, and the kernels' view of them.
#pragma once

#include <algorithm>
#include <array>

#include "../kernels/fisher.h"
#include "check.h"

namespace fastforget {

// Per-sample weights [G, batch].
struct SampleWeights {
  SampleWeights(const Tensor& weights, int64_t batch, DType dtype) {
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
  const SampleWeights groups(weights, grad.size(0), dtype);
  const int64_t O = grad.size(2), I = input.size(2);
  check_result(fisher, "fisher", dtype, {groups.G, O, I});
  check_result(gradient, "gradient", dtype, {groups.G, O, I});
  check_bias(fisher, gradient, bias_fisher, bias_gradient, dtype, groups.G, O);
  MatmulFisher f{};
  f.dtype = dtype;
  f.N = grad.size(0), f.G = groups.G, f.T = grad.size(1), f.O = O, f.I = I;
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
inline std::array<int64_t, 3> in_three_dimensions(const std::vector<int64_t>& values, int64_t dims,
                                                  int64_t fill, const char* name) {
  STD_TORCH_CHECK(static_cast<int64_t>(values.size()) == dims, "`", name, "` must have ", dims,
                  " values, got ", values.size());
  std::array<int64_t, 3> out{fill, fill, fill};
  std::copy(values.begin(), values.end(), out.end() - dims);
  return out;
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

// The settings of a convolution.
struct ConvolutionSettings {
  const std::vector<int64_t>&stride, &padding, &dilation;
  int64_t groups;
};

// A convolution as the kernels see it: `f` holds a pointer to `p`, and pointers to the first of the
// convolution groups.
struct ConvolutionArguments {
  ConvolutionArguments(const Tensor& grad, const Tensor& input, const Tensor& weights,
                       const ConvolutionSettings& settings, const OptionalTensor& fisher,
                       const OptionalTensor& gradient, const OptionalTensor& bias_fisher,
                       const OptionalTensor& bias_gradient, bool overwrite) {
    const DType dtype = dtype_of(grad, "grad");
    const int64_t dims = grad.dim() - 2, groups = settings.groups, channels = grad.size(1);
    STD_TORCH_CHECK(dims >= 1 && dims <= 3, "`grad` must be 3-D, 4-D or 5-D, got shape ",
                    shape_text(grad));
    check_dim(input, "input", dims + 2);
    check_type(input, "input", grad.scalar_type());
    check_size(input, "input", 0, grad.size(0));
    STD_TORCH_CHECK(groups >= 1 && channels % groups == 0 && input.size(1) % groups == 0,
                    "`groups` must divide the channels of `grad` and `input`, got ", groups);
    STD_TORCH_CHECK(fisher || gradient, "`fisher` or `gradient` must be given");
    const Tensor& result = fisher ? *fisher : *gradient;
    check_dim(result, fisher ? "fisher" : "gradient", dims + 3);
    const SampleWeights sample_weights(weights, grad.size(0), dtype);
    fill_patches(grad, input, result, settings);
    std::vector<int64_t> expected{sample_weights.G, channels, p.channels};
    for (int64_t d = 0; d < dims; ++d) expected.push_back(result.size(3 + d));
    check_result(fisher, "fisher", dtype, expected);
    check_result(gradient, "gradient", dtype, expected);
    check_bias(fisher, gradient, bias_fisher, bias_gradient, dtype, sample_weights.G, channels);
    check_geometry(grad, input);

    f.dtype = dtype;
    f.N = grad.size(0), f.G = sample_weights.G, f.T = p.out[0] * p.out[1] * p.out[2];
    f.O = channels / groups, f.I = p.channels * p.kernel[0] * p.kernel[1] * p.kernel[2];
    f.weights = sample_weights.data;
    fill_operands(grad, input);
    f.fisher = mutable_data_of(fisher), f.gradient = mutable_data_of(gradient);
    f.group_stride = channels * f.I, f.overwrite = overwrite;
    f.bias_fisher = mutable_data_of(bias_fisher), f.bias_gradient = mutable_data_of(bias_gradient);
    f.bias_stride = channels;
  }
  ConvolutionArguments(const ConvolutionArguments&) = delete;
  ConvolutionArguments& operator=(const ConvolutionArguments&) = delete;

  MatmulFisher f{};
  Patches p{};

 private:
  void fill_patches(const Tensor& grad, const Tensor& input, const Tensor& result,
                    const ConvolutionSettings& settings) {
    const int64_t dims = grad.dim() - 2;
    p.channels = input.size(1) / settings.groups;
    p.in_stride[0] = input.stride(1);
    for (int d = 0; d < 3; ++d) {
      const int64_t at = d + dims - 1;  // dimension of the tensors that holds spatial dimension d
      const bool real = d >= 3 - dims;
      p.size[d] = real ? input.size(at) : 1;
      p.out[d] = real ? grad.size(at) : 1;
      p.kernel[d] = real ? result.size(at + 1) : 1;
      p.in_stride[d + 1] = real ? input.stride(at) : 0;
    }
    std::copy_n(in_three_dimensions(settings.stride, dims, 1, "stride").begin(), 3, p.stride);
    std::copy_n(in_three_dimensions(settings.padding, dims, 0, "padding").begin(), 3, p.padding);
    std::copy_n(in_three_dimensions(settings.dilation, dims, 1, "dilation").begin(), 3, p.dilation);
  }

  void check_geometry(const Tensor& grad, const Tensor& input) const {
    STD_TORCH_CHECK(p.channels >= 1, "`input` must have channels, got shape ", shape_text(input));
    for (int d = 0; d < 3; ++d) {
      STD_TORCH_CHECK(p.stride[d] >= 1 && p.dilation[d] >= 1 && p.padding[d] >= 0,
                      "`stride` and `dilation` must be positive and `padding` not negative");
      // Products of two of them fit into 63 bits.
      for (int64_t value :
           {p.stride[d], p.dilation[d], p.padding[d], p.out[d], p.size[d], p.kernel[d]})
        STD_TORCH_CHECK(value < int64_t(1) << 30,
                        "`stride`, `dilation`, `padding` and sizes must be below 2^30, got ",
                        value);
      STD_TORCH_CHECK((p.out[d] - 1) * p.stride[d] + (p.kernel[d] - 1) * p.dilation[d] <
                          p.size[d] + 2 * p.padding[d] + p.stride[d],
                      "`grad` of shape ", shape_text(grad), " cannot come from `input` of shape ",
                      shape_text(input));
    }
  }

  void fill_operands(const Tensor& grad, const Tensor& input) {
    // The T positions must form one strided axis; copy grad where they do not (channels-last does).
    rows_ = position_stride(grad) ? grad : torch::stable::contiguous(grad);
    f.grad = rows_.const_data_ptr(), f.input = input.const_data_ptr();
    f.grad_stride[0] = rows_.stride(0), f.grad_stride[1] = position_stride(rows_).value_or(1);
    f.grad_stride[2] = rows_.stride(1);
    f.input_stride[0] = input.stride(0);
    f.patches = &p;
    f.conv_grad_stride = f.O * f.grad_stride[2];
    f.conv_input_stride = p.channels * p.in_stride[0];
  }

  Tensor rows_;  // grad, whose positions are one axis
};

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
  const SampleWeights groups(weights, grad.size(0), dtype);
  AffineFisher f{};
  f.dtype = dtype;
  f.N = grad.size(0), f.G = groups.G, f.A = grad.size(1), f.P = grad.size(2), f.B = grad.size(3);
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
  const SampleWeights groups(weights, grad.size(0), dtype);
  const int64_t V = shape.size(1), D = grad.size(2);
  check_result(fisher, "fisher", dtype, {groups.G, V, D});
  check_result(gradient, "gradient", dtype, {groups.G, V, D});
  EmbeddingFisher f{};
  f.dtype = dtype;
  f.N = grad.size(0), f.G = groups.G, f.T = grad.size(1), f.V = V, f.D = D;
  f.grad = grad.const_data_ptr();
  for (int d = 0; d < 3; ++d) f.grad_stride[d] = grad.stride(d);
  f.tokens = static_cast<const int64_t*>(tokens.const_data_ptr()), f.weights = groups.data;
  f.fisher = mutable_data_of(fisher), f.gradient = mutable_data_of(gradient);
  return f;
}

}  // namespace fastforget
