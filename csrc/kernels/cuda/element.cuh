// Element types on the device: storage, the type sums are kept in, and the way between them.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "../types.h"

namespace fastforget::cuda {

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

template <class E>
struct SumOf {
  using type = float;
};
template <>
struct SumOf<double> {
  using type = double;
};
template <class E>
using Sum = typename SumOf<E>::type;

__device__ __forceinline__ float wide(float v) { return v; }
__device__ __forceinline__ double wide(double v) { return v; }
__device__ __forceinline__ float wide(Bf16 v) { return __uint_as_float(unsigned(v.bits) << 16); }
__device__ __forceinline__ float wide(F16 v) { return __half2float(__ushort_as_half(v.bits)); }

// Rounds to nearest, ties to even.
template <class E, class V>
__device__ __forceinline__ E narrow(V value) {
  return static_cast<E>(value);
}
template <>
__device__ __forceinline__ Bf16 narrow<Bf16, float>(float value) {
  const unsigned bits = __float_as_uint(value);
  if (value != value) return {0x7fc0};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
template <>
__device__ __forceinline__ F16 narrow<F16, float>(float value) {
  return {__half_as_ushort(__float2half_rn(value))};
}

template <>
__device__ __forceinline__ Bf16 narrow<Bf16, double>(double value) {
  return narrow<Bf16>(static_cast<float>(value));
}
template <>
__device__ __forceinline__ F16 narrow<F16, double>(double value) {
  return narrow<F16>(static_cast<float>(value));
}

// Calls f(E{}) for the element type of a tensor.
template <class F>
auto with_element(DType dtype, const F& f) {
  switch (dtype) {
    case DType::f64:
      return f(double{});
    case DType::bf16:
      return f(Bf16{});
    case DType::f16:
      return f(F16{});
    default:
      return f(float{});
  }
}

}  // namespace fastforget::cuda
