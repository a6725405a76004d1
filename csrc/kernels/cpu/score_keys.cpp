// Conversions between scores and keys whose type is known at run time.
#include "score_keys.h"

#include "element.h"

namespace fastforget::cpu {

DType value_type(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

int key_bits(DType dtype) { return dtype == DType::f64 ? 64 : 32; }

uint64_t key_of(DType dtype, const void* score) {
  return with_dtype(dtype, [&](auto x) {
    return uint64_t(to_key(widen(*static_cast<const decltype(x)*>(score))));
  });
}

void score_of(DType dtype, uint64_t key, void* score) {
  with_dtype(dtype, [&](auto x) {
    *static_cast<decltype(x)*>(score) = narrow<decltype(x)>(from_key<decltype(widen(x))>(key));
  });
}

}  // namespace fastforget::cpu
