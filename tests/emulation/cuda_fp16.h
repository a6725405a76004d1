// Half precision on the host; see cuda_runtime.h.
#pragma once

#include <cstring>

struct __half {
  unsigned short bits;
};
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half h) { return h.bits; }
inline float __half2float(__half h) {
  _Float16 value;
  std::memcpy(&value, &h.bits, 2);
  return static_cast<float>(value);
}
inline __half __float2half_rn(float v) {
  const _Float16 value = static_cast<_Float16>(v);
  __half h;
  std::memcpy(&h.bits, &value, 2);
  return h;
}
