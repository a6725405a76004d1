// Scores as unsigned keys that sort like the floats; -0 gets the key of +0.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "../types.h"

namespace fastforget::cpu {

// The unsigned integer of a value type, float or double.
template <class S>
using Key = std::conditional_t<sizeof(S) == 8, uint64_t, uint32_t>;

template <class S>
static inline Key<S> to_key(S score) {
  constexpr Key<S> sign = Key<S>(1) << (8 * sizeof(S) - 1);
  const auto bits = std::bit_cast<Key<S>>(score + S(0));  // -0 + 0 = +0
  return bits ^ ((bits & sign) ? ~Key<S>(0) : sign);
}

template <class S>
static inline S from_key(uint64_t key) {
  constexpr Key<S> sign = Key<S>(1) << (8 * sizeof(S) - 1);
  return std::bit_cast<S>(Key<S>(Key<S>(key) ^ ((key & sign) ? sign : ~Key<S>(0))));
}

// The same for types known at run time. Half types are compared as float32: the value type is
// float32 or float64.
DType value_type(DType);
int key_bits(DType);
uint64_t key_of(DType, const void* score);
void score_of(DType, uint64_t key, void* score);

}  // namespace fastforget::cpu
