// Lists of tensors as the kernels want them: arrays of sizes and pointers.
#pragma once

#include "check.h"

namespace fastforget {

inline std::vector<int64_t> sizes_of(const Tensors& tensors) {
  std::vector<int64_t> sizes;
  for (const Tensor& t : tensors) sizes.push_back(t.numel());
  return sizes;
}

inline std::vector<const void*> data_of(const Tensors& tensors) {
  std::vector<const void*> data;
  for (const Tensor& t : tensors) data.push_back(t.const_data_ptr());
  return data;
}

inline std::vector<void*> mutable_data_of(const Tensors& tensors) {
  std::vector<void*> data;
  for (const Tensor& t : tensors) data.push_back(t.mutable_data_ptr());
  return data;
}

}  // namespace fastforget
