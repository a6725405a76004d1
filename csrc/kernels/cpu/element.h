// Element types on the CPU: half types, their exact widening, rounding to nearest even on the way
// back, and calls by element type or size.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../types.h"

namespace fastforget::cpu {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

static inline float widen(float x) { return x; }
static inline double widen(double x) { return x; }
static inline float widen(BFloat16 x) { return std::bit_cast<float>(uint32_t(x.bits) << 16); }
static inline float widen(Half x) {
  // Exact for every input: shift exponent and fraction into place, then rescale by 2^112, which
  // also normalises subnormals; infinities and NaN get their exponent set. No branch, so that loops
  // vectorise.
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = uint32_t(x.bits & 0x7fffu) << 13;
  const uint32_t scaled = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  const uint32_t special = (magnitude + (1u << 23)) >> 28;  // 1 where every exponent bit is set
  return std::bit_cast<float>(sign | scaled | special * 0x7f800000u);
}

template <class P, class S>
static inline P narrow(S x) {
  return static_cast<P>(x);
}
template <>
inline BFloat16 narrow<BFloat16, float>(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return {uint16_t(x != x ? bits >> 16 | 0x40u : rounded)};
}
template <>
inline Half narrow<Half, float>(float x) {
  // Every case is computed and one is chosen, so that loops vectorise.
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const float magnitude = std::fabs(x);
  // Subnormal: units of 2^-24, rounded by adding 2^23.
  const uint32_t subnormal = std::bit_cast<uint32_t>(magnitude * 0x1p24f + 0x1p23f) & 0x7fffu;
  const uint32_t shifted = (bits & 0x7fffffffu) - (112u << 23);
  const uint32_t normal = (shifted + 0xfffu + (shifted >> 13 & 1u)) >> 13;
  uint32_t half = magnitude < 0x1p-14f ? subnormal : normal;
  half = magnitude >= 65520.0f ? 0x7c00u : half;
  half = x != x ? 0x7e00u : half;
  return {uint16_t((bits >> 16 & 0x8000u) | half)};
}
template <>
inline BFloat16 narrow<BFloat16, double>(double x) {
  return narrow<BFloat16>(static_cast<float>(x));
}
template <>
inline Half narrow<Half, double>(double x) {
  return narrow<Half>(static_cast<float>(x));
}

// Calls function with a zero of the element type.
template <class Function>
auto with_dtype(DType dtype, const Function& function) {
  switch (dtype) {
    case DType::f64:
      return function(double{});
    case DType::bf16:
      return function(BFloat16{});
    case DType::f16:
      return function(Half{});
    default:
      return function(float{});
  }
}

// Calls function with a zero of the unsigned integer of 2, 4 or 8 bytes.
template <class Function>
void with_word(int bytes, const Function& function) {
  switch (bytes) {
    case 2:
      return function(uint16_t{});
    case 4:
      return function(uint32_t{});
    default:
      return function(uint64_t{});
  }
}

}  // namespace fastforget::cpu
