// Lists of tensors as the launchers want them.
#pragma once

#include "../../kernels/cuda/perturb.h"
#include "../mask_check.h"

namespace fastforget::cuda {

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

// A mask from outside with the tensors it is of.
class Marked {
 public:
  Marked(const Tensor& mask, const Tensors& tensors) : sizes_(sizes_of(tensors)) {
    check_mask(mask, tensors);
    mask_ = static_cast<const uint64_t*>(mask.const_data_ptr());
  }
  operator MaskOf() const { return {mask_, static_cast<int64_t>(sizes_.size()), sizes_.data()}; }

 private:
  std::vector<int64_t> sizes_;
  const uint64_t* mask_;
};

}  // namespace fastforget::cuda
