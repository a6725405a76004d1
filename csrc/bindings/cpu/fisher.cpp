// fisher_linear, fisher_convolution, fisher_affine and fisher_embedding on the CPU.
#include "../../kernels/cpu/fisher.h"

#include "../fisher_arguments.h"
#include "torch_threads.h"

namespace fastforget {
namespace {

void fisher_linear(const Tensor& grad, const Tensor& input, const Tensor& weights,
                   const OptionalTensor& fisher, const OptionalTensor& gradient,
                   const OptionalTensor& bias_fisher, const OptionalTensor& bias_gradient,
                   bool overwrite, bool /*tf32*/) {
  cpu::fisher_linear(linear_arguments(grad, input, weights, fisher, gradient, bias_fisher,
                                      bias_gradient, overwrite),
                     kTorchThreads);
}

void fisher_convolution(const Tensor& grad, const Tensor& input, const Tensor& weights,
                        const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                        const std::vector<int64_t>& dilation, int64_t groups,
                        const OptionalTensor& fisher, const OptionalTensor& gradient,
                        const OptionalTensor& bias_fisher, const OptionalTensor& bias_gradient,
                        bool overwrite, bool /*tf32*/) {
  const ConvolutionArguments arguments(grad, input, weights, {stride, padding, dilation, groups},
                                       fisher, gradient, bias_fisher, bias_gradient, overwrite);
  cpu::fisher_convolution(arguments.f, groups, kTorchThreads);
}

void fisher_affine(const Tensor& grad, const OptionalTensor& input, const OptionalTensor& mean,
                   const OptionalTensor& rstd, const Tensor& weights,
                   const OptionalTensor& scale_fisher, const OptionalTensor& scale_gradient,
                   const OptionalTensor& shift_fisher, const OptionalTensor& shift_gradient) {
  cpu::fisher_affine(affine_arguments(grad, input, mean, rstd, weights, scale_fisher,
                                      scale_gradient, shift_fisher, shift_gradient),
                     kTorchThreads);
}

void fisher_embedding(const Tensor& grad, const Tensor& tokens, const Tensor& weights,
                      int64_t padding_idx, const OptionalTensor& fisher,
                      const OptionalTensor& gradient) {
  const EmbeddingFisher f = embedding_arguments(grad, tokens, weights, fisher, gradient);
  for (int64_t i = 0; i < tokens.numel(); ++i)
    STD_TORCH_CHECK(f.tokens[i] >= 0 && f.tokens[i] < f.V, "`tokens` must lie in [0, ", f.V,
                    "), got ", f.tokens[i]);
  cpu::fisher_embedding(f, padding_idx, kTorchThreads);
}

}  // namespace
}  // namespace fastforget

STABLE_TORCH_LIBRARY_IMPL(fastforget, CPU, m) {
  m.impl("fisher_linear", TORCH_BOX(&fastforget::fisher_linear));
  m.impl("fisher_convolution", TORCH_BOX(&fastforget::fisher_convolution));
  m.impl("fisher_affine", TORCH_BOX(&fastforget::fisher_affine));
  m.impl("fisher_embedding", TORCH_BOX(&fastforget::fisher_embedding));
}
