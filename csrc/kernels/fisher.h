// What the diagonal Fisher kernels compute, on any device.
//
// Every kernel accumulates, for each group g of per-sample weights w[g, n],
//
//     fisher[g]   += sum_n w[g, n] * c_n * c_n        (element-wise square)
//     gradient[g] += sum_n w[g, n] * c_n              (optional)
//
// where c_n is the gradient of sample n's loss with respect to one parameter. c_n only ever exists
// as a tile in registers or a cache; it is never written to memory as a whole.
//
// Shape alphabet: G groups of weights, N samples, T positions (time or space), O / I features out
// and in, P parameters. Strides are counted in elements. Sums and weights are float32, or float64
// for float64 operands.
#pragma once

#include <cstdint>

#include "types.h"

namespace fastforget {

// What a convolution reads as the "input" operand: columns of the implicit im2col matrix.
// One- and two-dimensional convolutions are three-dimensional ones with leading sizes of one.
struct Patches {
  int64_t channels;  // channels per group
  int64_t size[3];   // D, H, W of the input
  int64_t out[3];    // D, H, W of the positions; T = product
  int64_t kernel[3];
  int64_t stride[3];
  int64_t padding[3];
  int64_t dilation[3];
  int64_t in_stride[4];  // element strides of channel, D, H, W
};

// c_n[o, i] = sum_t grad[n, t, o] * input[n, t, i].
struct MatmulFisher {
  DType dtype;  // of grad and input
  int64_t G, N, T, O, I;
  const void* grad;
  int64_t grad_stride[3];  // n, t, o
  const void* input;
  int64_t input_stride[3];  // n, t, i; for patches only n is used
  const Patches* patches;   // null: input is a strided matrix
  const void* weights;      // [G, N]
  void* fisher;             // [G, O, I], or null
  void* gradient;           // [G, O, I], or null
  int64_t group_stride;     // elements between two groups g of fisher and gradient
  bool overwrite;           // fisher and gradient hold nothing yet: = instead of +=
  // The bias beside the weight, whose c_n is sum_t grad[n, t, o].
  void* bias_fisher;    // [G, O], or null
  void* bias_gradient;  // [G, O], or null
  int64_t bias_stride;  // elements between two groups g of these
  // Grouped convolutions: elements from one convolution group to the next.
  int64_t conv_grad_stride, conv_input_stride;
};

// Scale and shift of a norm, a bias, a broadcast sum or product, over a [N, A, P, B] view of grad:
//     shift: c_n[p] = sum_{a,b} grad[n,a,p,b]
//     scale: c_n[p] = sum_{a,b} grad[n,a,p,b] * (input[n,a,p,b] - mean[n,a,p]) * rstd[n,a,p]
struct AffineFisher {
  DType dtype;
  int64_t G, N, A, P, B;
  const void* grad;
  int64_t grad_stride[4];
  const void* input;  // null: no scale
  int64_t input_stride[4];
  const void* mean;  // in the type of the sums; null: 0
  int64_t mean_stride[3];
  const void* rstd;  // in the type of the sums; null: 1
  int64_t rstd_stride[3];
  const void* weights;  // [G, N]
  void* scale_fisher;   // each [G, P] or null
  void* scale_gradient;
  void* shift_fisher;
  void* shift_gradient;
};

// c_n[v, d] = sum of grad[n, t, d] over the positions t whose token is v.
struct EmbeddingFisher {
  DType dtype;
  int64_t G, N, T, V, D;
  const void* grad;
  int64_t grad_stride[3];  // n, t, d
  const int64_t* tokens;   // [N, T]
  const void* weights;     // [G, N]
  void* fisher;            // [G, V, D], or null
  void* gradient;          // [G, V, D], or null
};

// The bias of a linear layer or a convolution of some channels, as the shift of [N, 1, O, T].
inline AffineFisher bias_of(const MatmulFisher& f, int64_t channels) {
  AffineFisher bias{};
  bias.dtype = f.dtype, bias.G = f.G, bias.N = f.N, bias.A = 1, bias.P = channels, bias.B = f.T;
  bias.grad = f.grad;
  bias.grad_stride[0] = f.grad_stride[0], bias.grad_stride[1] = 0;
  bias.grad_stride[2] = f.grad_stride[2], bias.grad_stride[3] = f.grad_stride[1];
  bias.weights = f.weights;
  bias.shift_fisher = f.bias_fisher, bias.shift_gradient = f.bias_gradient;
  return bias;
}

}  // namespace fastforget
