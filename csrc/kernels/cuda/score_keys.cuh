// Scores on the device as unsigned integers that sort like them.
#pragma once

#include "element.cuh"

namespace fastforget::cuda {

// The key of a score is an unsigned integer of its size; -0 gets the key of +0.
template <class E>
struct KeyOf {
  using type = uint16_t;
};
template <>
struct KeyOf<float> {
  using type = uint32_t;
};
template <>
struct KeyOf<double> {
  using type = uint64_t;
};
template <class E>
using Key = typename KeyOf<E>::type;

__device__ __forceinline__ uint32_t bits_of(float v) { return __float_as_uint(v); }
__device__ __forceinline__ uint64_t bits_of(double v) { return uint64_t(__double_as_longlong(v)); }
__device__ __forceinline__ uint16_t bits_of(Bf16 v) { return v.bits; }
__device__ __forceinline__ uint16_t bits_of(F16 v) { return v.bits; }

template <class K>
constexpr K kSign = K(K(1) << (8 * sizeof(K) - 1));

template <class E>
__device__ __forceinline__ Key<E> key_of(E score) {
  using K = Key<E>;
  K bits = bits_of(score);
  if (bits == kSign<K>) bits = 0;
  return K(bits ^ (bits & kSign<K> ? K(~K(0)) : kSign<K>));
}

// The bits of the score with this key.
template <class K>
__device__ __forceinline__ K bits_of_key(K key) {
  return K(key ^ (key & kSign<K> ? kSign<K> : K(~K(0))));
}

template <class E>
__device__ __forceinline__ bool is_nan(E score) {
  const auto value = wide(score);
  return value != value;
}

// The bits of a NaN.
template <class E>
constexpr uint64_t kNanBits = 0x7fc00000;
template <>
constexpr uint64_t kNanBits<double> = 0x7ff8000000000000;
template <>
constexpr uint64_t kNanBits<Bf16> = 0x7fc0;
template <>
constexpr uint64_t kNanBits<F16> = 0x7e00;

}  // namespace fastforget::cuda
