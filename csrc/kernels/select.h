// The scores of a list of tensors that are never concatenated. `select` finds the k largest of all
// of them exactly. Equal scores are taken in (tensor, element) order.
//
// Scores are compared as unsigned keys that sort like the floats; -0 equals +0.
#pragma once

#include <cstdint>

#include "types.h"

namespace fastforget {

// L contiguous tensors of one dtype.
struct ScoreTensors {
  DType dtype;
  int64_t L;
  const int64_t* sizes;       // [L] elements
  const void* const* scores;  // [L]
};

}  // namespace fastforget
