// Checks and small conversions shared by the bindings: one text per fault, in the words of the
// Python layer ("`scores` must …, got …").
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "../kernels/types.h"

namespace fastforget {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;
using OptionalTensor = std::optional<Tensor>;

inline std::string shape_text(const Tensor& t) {
  std::string text = "(";
  for (int64_t d = 0; d < t.dim(); ++d) text += (d ? ", " : "") + std::to_string(t.size(d));
  return text + (t.dim() == 1 ? ",)" : ")");
}

inline DType dtype_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::Double:
      return DType::f64;
    case ScalarType::BFloat16:
      return DType::bf16;
    case ScalarType::Half:
      return DType::f16;
    default:
      STD_TORCH_CHECK(false, "`", name, "` must be float32, float64, bfloat16 or float16, got ",
                      torch::headeronly::toString(t.scalar_type()));
      return DType::f32;
  }
}

// Sums are kept in float32, or float64 for float64 inputs.
inline ScalarType sum_type(DType dtype) {
  return dtype == DType::f64 ? ScalarType::Double : ScalarType::Float;
}

inline void check_dim(const Tensor& t, const char* name, int64_t dim) {
  STD_TORCH_CHECK(t.dim() == dim, "`", name, "` must be ", dim, "-D, got shape ", shape_text(t));
}

inline void check_size(const Tensor& t, const char* name, int64_t dim, int64_t size) {
  STD_TORCH_CHECK(t.size(dim) == size, "`", name, "` must have size ", size, " in dimension ", dim,
                  ", got shape ", shape_text(t));
}

inline void check_type(const Tensor& t, const char* name, ScalarType type) {
  STD_TORCH_CHECK(t.scalar_type() == type, "`", name, "` must be ",
                  torch::headeronly::toString(type), ", got ",
                  torch::headeronly::toString(t.scalar_type()));
}

inline void check_contiguous(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.is_contiguous(), "`", name, "` must be contiguous");
}

template <class T = void>
const T* data_of(const OptionalTensor& t) {
  return t ? static_cast<const T*>(t->const_data_ptr()) : nullptr;
}

inline void* mutable_data_of(const OptionalTensor& t) {
  return t ? t->mutable_data_ptr() : nullptr;
}

}  // namespace fastforget
