// Half types, exact widening, and rounding to nearest even on the way back.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

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
  // also normalises subnormals; infinities and NaN get their exponent set.
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = uint32_t(x.bits & 0x7fffu) << 13;
  uint32_t bits = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  if ((x.bits & 0x7c00u) == 0x7c00u) bits = magnitude | 0x7f800000u;
  return std::bit_cast<float>(bits | sign);
}

template <class P, class S>
static inline P narrow(S x) {
  return static_cast<P>(x);
}
template <>
inline BFloat16 narrow<BFloat16, float>(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (x != x) return {uint16_t(bits >> 16 | 0x40u)};
  return {uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}
template <>
inline Half narrow<Half, float>(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000u);
  const float magnitude = std::fabs(x);
  if (x != x) return {uint16_t(sign | 0x7e00u)};
  if (magnitude >= 65520.0f) return {uint16_t(sign | 0x7c00u)};
  if (magnitude < 0x1p-14f)  // subnormal: units of 2^-24, rounded by adding and dropping 1.5 * 2^23
    return {uint16_t(sign |
                     uint16_t(std::bit_cast<uint32_t>(magnitude * 0x1p24f + 0x1p23f) & 0x7fffu))};
  const uint32_t half = std::bit_cast<uint32_t>(magnitude) - (112u << 23);
  return {uint16_t(sign | uint16_t((half + 0xfffu + (half >> 13 & 1u)) >> 13))};
}
template <>
inline BFloat16 narrow<BFloat16, double>(double x) {
  return narrow<BFloat16>(static_cast<float>(x));
}
template <>
inline Half narrow<Half, double>(double x) {
  return narrow<Half>(static_cast<float>(x));
}

}  // namespace fastforget::cpu
