// Where a call on a CUDA device runs: the device of its tensors, PyTorch's current stream there,
// and scratch memory from PyTorch's allocator, which the stream orders.
#pragma once

#include <cuda_runtime.h>

#include "../check.h"

#if defined(FASTFORGET_EMULATION)
// Kernels run on the host, see tests/emulation: the operators are those of the CPU.
#define FASTFORGET_DEVICE CPU
#else
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#define FASTFORGET_DEVICE CUDA
#endif
// Registers kernels for the device; expands its name first.
#define FASTFORGET_REGISTER(device, m) STABLE_TORCH_LIBRARY_IMPL(fastforget, device, m)

namespace fastforget::cuda {

class Context {
 public:
  explicit Context(const Tensor& tensor)
      : index_(tensor.get_device_index())
#if !defined(FASTFORGET_EMULATION)
        ,
        guard_(index_)
#endif
  {
#if !defined(FASTFORGET_EMULATION)
    // The guard speaks to PyTorch's CUDA runtime; this library has its own.
    run(cudaSetDevice(index_));
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
#endif
  }

  cudaStream_t stream() const { return stream_; }

  // Every tensor of a call must be on its device.
  void check(const Tensor& tensor, const char* name) const {
    STD_TORCH_CHECK(tensor.is_cpu() == kOnHost && tensor.get_device_index() == index_, "`", name,
                    "` must be on the device of the others");
  }
  void check(const OptionalTensor& tensor, const char* name) const {
    if (tensor) check(*tensor, name);
  }
  void check(const Tensors& tensors, const char* name) const {
    for (const Tensor& tensor : tensors) check(tensor, name);
  }

  // Scratch memory, aligned as PyTorch aligns tensors; kept until the tensor goes.
  static Tensor scratch(const Tensor& like, int64_t bytes) {
    return torch::stable::new_empty(like, std::vector<int64_t>{bytes}, ScalarType::Byte);
  }

  int64_t multiprocessors() const {
    int count = 0;
    run(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, std::max(index_, 0)));
    return count;
  }

  // Throws if a launch failed.
  static void run(cudaError_t error) {
    STD_TORCH_CHECK(error == cudaSuccess, "CUDA: ", cudaGetErrorString(error));
  }

 private:
#if defined(FASTFORGET_EMULATION)
  static constexpr bool kOnHost = true;
#else
  static constexpr bool kOnHost = false;
#endif
  int32_t index_;
#if !defined(FASTFORGET_EMULATION)
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  cudaStream_t stream_ = nullptr;
};

}  // namespace fastforget::cuda
