// Scores as unsigned keys that sort like the floats; -0 is folded onto +0.
#pragma once

#include <cstdint>
#include <cstring>

#include "../types.h"

namespace fastforget::cpu {

template <class S>
struct Key;

template <>
struct Key<float> {
  using Bits = uint32_t;
};

template <>
struct Key<double> {
  using Bits = uint64_t;
};

template <class S>
inline typename Key<S>::Bits to_key(S score) {
  using Bits = typename Key<S>::Bits;
  constexpr Bits sign = Bits(1) << (8 * sizeof(S) - 1);
  score += S(0);  // -0 + 0 = +0
  Bits bits;
  std::memcpy(&bits, &score, sizeof(S));
  return bits ^ ((bits & sign) ? ~Bits(0) : sign);
}

template <class S>
inline S from_key(typename Key<S>::Bits key) {
  using Bits = typename Key<S>::Bits;
  constexpr Bits sign = Bits(1) << (8 * sizeof(S) - 1);
  const Bits bits = key ^ ((key & sign) ? sign : ~Bits(0));
  S score;
  std::memcpy(&score, &bits, sizeof(S));
  return score;
}

// Calls function with a float or a double; scores have no other types.
template <class Function>
auto with_score_type(DType dtype, const Function& function) {
  return dtype == DType::f64 ? function(double{}) : function(float{});
}

}  // namespace fastforget::cpu
