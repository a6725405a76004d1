// Element types, and how many bytes they take.
#pragma once

#include <cstdint>

namespace fastforget {

enum class DType { f32, f64, bf16, f16 };

inline int64_t element_size(DType dtype) {
  return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2;
}

// Sums over elements are kept in float32, or in float64 for float64 elements.
inline int64_t sum_size(DType dtype) { return dtype == DType::f64 ? 8 : 4; }

}  // namespace fastforget
