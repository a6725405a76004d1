// fisher_linear, fisher_convolution, fisher_affine and fisher_embedding on CUDA devices.
#include "../../kernels/cuda/fisher.h"

#include <limits>

#include "../fisher_arguments.h"
#include "context.h"

namespace fastforget {
namespace {

using cuda::Context;

// Starts kernels with the scratch memory they want.
template <class Work>
void start_kernels(const Context& context, const Tensor& like, const Work& work,
                   int64_t (*bytes)(const Work&),
                   cudaError_t (*start)(const Work&, void*, cudaStream_t)) {
  Tensor scratch = Context::scratch(like, bytes(work));
  Context::run(start(work, scratch.mutable_data_ptr(), context.stream()));
}

void run_affine(const Context& context, const Tensor& like, const AffineFisher& f) {
  const cuda::AffineWork work{f, context.multiprocessors()};
  start_kernels(context, like, work, cuda::fisher_affine_bytes, cuda::fisher_affine);
}

// The kernels count the elements between the features of a sample in 32 bits.
void check_feature_span(int64_t features, int64_t stride, const char* name) {
  STD_TORCH_CHECK((features - 1) * stride <= std::numeric_limits<int32_t>::max(), "`", name,
                  "` must have less than 2^31 elements between the first and the last feature of a "
                  "sample, got ",
                  features, " features with stride ", stride);
}

void check_positions(int64_t positions, const char* where = "a sample") {
  STD_TORCH_CHECK(positions <= std::numeric_limits<int32_t>::max(),
                  "`grad` must have less than 2^31 positions in ", where, ", got ", positions);
}

// A dimension of a kernel's grid counts the groups.
void check_groups(const Tensor& weights) {
  constexpr int64_t kMost = 65535;
  STD_TORCH_CHECK(weights.size(0) <= kMost, "`weights` must have at most ", kMost,
                  " groups on a CUDA device, got ", weights.size(0));
}

void check_devices(const Context& context, const Tensor& input, const Tensor& weights,
                   const OptionalTensor& fisher, const OptionalTensor& gradient,
                   const OptionalTensor& bias_fisher, const OptionalTensor& bias_gradient) {
  context.check(input, "input");
  context.check(weights, "weights");
  context.check(fisher, "fisher");
  context.check(gradient, "gradient");
  context.check(bias_fisher, "bias_fisher");
  context.check(bias_gradient, "bias_gradient");
  check_groups(weights);
}

void fisher_linear(const Tensor& grad, const Tensor& input, const Tensor& weights,
                   const OptionalTensor& fisher, const OptionalTensor& gradient,
                   const OptionalTensor& bias_fisher, const OptionalTensor& bias_gradient,
                   bool overwrite, bool tf32) {
  const MatmulFisher f = linear_arguments(grad, input, weights, fisher, gradient, bias_fisher,
                                          bias_gradient, overwrite);
  check_feature_span(f.O, f.grad_stride[2], "grad");
  check_feature_span(f.I, f.input_stride[2], "input");
  check_positions(f.T);
  const Context context(grad);
  check_devices(context, input, weights, fisher, gradient, bias_fisher, bias_gradient);
  const cuda::MatmulWork work{f, 1, tf32, context.multiprocessors()};
  start_kernels(context, grad, work, cuda::fisher_matmul_bytes, cuda::fisher_matmul);
  if ((f.bias_fisher || f.bias_gradient) && f.I > 0) run_affine(context, grad, bias_of(f, f.O));
}

void fisher_convolution(const Tensor& grad, const Tensor& input, const Tensor& weights,
                        const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                        const std::vector<int64_t>& dilation, int64_t groups,
                        const OptionalTensor& fisher, const OptionalTensor& gradient,
                        const OptionalTensor& bias_fisher, const OptionalTensor& bias_gradient,
                        bool overwrite, bool tf32) {
  const Context context(grad);
  const ConvolutionArguments work(grad, input, weights, {stride, padding, dilation, groups}, fisher,
                                  gradient, bias_fisher, bias_gradient, overwrite);
  check_devices(context, input, weights, fisher, gradient, bias_fisher, bias_gradient);
  check_feature_span(work.f.O, work.f.grad_stride[2], "grad");
  check_positions(work.f.T);
  int64_t reach = 0;  // of the elements of one sample; the kernels count them in 32 bits
  for (int d = 0; d < 3; ++d)
    reach += (work.p.size[d] + work.p.padding[d] + work.p.kernel[d] * work.p.dilation[d]) *
             work.p.in_stride[d + 1];
  reach += work.p.channels * work.p.in_stride[0];
  STD_TORCH_CHECK(reach <= std::numeric_limits<int32_t>::max(),
                  "`input` must have samples of less than 2^31 elements, got shape ",
                  shape_text(input));
  const cuda::MatmulWork matmul{work.f, groups, tf32, context.multiprocessors()};
  if (groups > 1 && work.f.O <= 4)
    start_kernels(context, grad, matmul, cuda::fisher_direct_bytes, cuda::fisher_direct);
  else
    start_kernels(context, grad, matmul, cuda::fisher_matmul_bytes, cuda::fisher_matmul);
  if ((work.f.bias_fisher || work.f.bias_gradient) && work.f.I > 0)
    run_affine(context, grad, bias_of(work.f, groups * work.f.O));
}

void fisher_affine(const Tensor& grad, const OptionalTensor& input, const OptionalTensor& mean,
                   const OptionalTensor& rstd, const Tensor& weights,
                   const OptionalTensor& scale_fisher, const OptionalTensor& scale_gradient,
                   const OptionalTensor& shift_fisher, const OptionalTensor& shift_gradient) {
  const AffineFisher f = affine_arguments(grad, input, mean, rstd, weights, scale_fisher,
                                          scale_gradient, shift_fisher, shift_gradient);
  check_positions(f.A * f.B);
  const Context context(grad);
  context.check(input, "input");
  context.check(mean, "mean");
  context.check(rstd, "rstd");
  check_devices(context, grad, weights, scale_fisher, scale_gradient, shift_fisher, shift_gradient);
  run_affine(context, grad, f);
}

void fisher_embedding(const Tensor& grad, const Tensor& tokens, const Tensor& weights,
                      int64_t padding_idx, const OptionalTensor& fisher,
                      const OptionalTensor& gradient) {
  const EmbeddingFisher f = embedding_arguments(grad, tokens, weights, fisher, gradient);
  const Context context(grad);
  check_devices(context, tokens, weights, fisher, gradient, {}, {});
  check_positions(f.N * f.T, "a batch");
  const cuda::EmbeddingWork work{f, padding_idx};
  start_kernels(context, grad, work, cuda::fisher_embedding_bytes, cuda::fisher_embedding);
}

}  // namespace
}  // namespace fastforget

FASTFORGET_REGISTER(FASTFORGET_DEVICE, m) {
  m.impl("fisher_linear", TORCH_BOX(&fastforget::fisher_linear));
  m.impl("fisher_convolution", TORCH_BOX(&fastforget::fisher_convolution));
  m.impl("fisher_affine", TORCH_BOX(&fastforget::fisher_affine));
  m.impl("fisher_embedding", TORCH_BOX(&fastforget::fisher_embedding));
}
