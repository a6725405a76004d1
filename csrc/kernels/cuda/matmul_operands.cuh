// How a matrix kernel reads its operands: decided on the host from their strides and alignment.
#pragma once

#include "fisher.h"
#include "operand.cuh"

namespace fastforget::cuda {

// The widest copy of neighbours that all addresses allow, 0 for none.
inline int vector_bytes(const Operand& x, const MatmulWork& w) {
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
inline bool pointwise(const Patches& p) {
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

inline Operand grad_of(const MatmulWork& w) {
  const MatmulFisher& f = w.fisher;
  Operand x{};
  x.data = f.grad, x.features = int(f.O), x.positions = f.T;
  x.sample_stride = f.grad_stride[0], x.position_stride = f.grad_stride[1];
  x.feature_stride = int(f.grad_stride[2]), x.group_stride = f.conv_grad_stride;
  x.features_fast = f.O > 1 && (f.T == 1 || x.feature_stride < x.position_stride);
  return x;
}

inline Operand input_of(const MatmulWork& w) {
  const MatmulFisher& f = w.fisher;
  Operand x{};
  x.data = f.input, x.features = int(f.I), x.positions = f.T;
  x.sample_stride = f.input_stride[0], x.group_stride = f.conv_input_stride;
  x.position_stride = f.input_stride[1], x.feature_stride = int(f.input_stride[2]);
  if (f.patches) {
    x.position_stride = f.patches->in_stride[3], x.feature_stride = int(f.patches->in_stride[0]);
    x.patches = !pointwise(*f.patches);
    set_patches(x, *f.patches);
  }
  x.features_fast = x.patches ? x.shape.channels > 1 && x.feature_stride < x.position_stride
                              : f.I > 1 && (f.T == 1 || x.feature_stride < x.position_stride);
  return x;
}

}  // namespace fastforget::cuda
