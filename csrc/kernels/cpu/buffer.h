// Scratch memory of a kernel.
#pragma once

#include <cstdint>
#include <new>

namespace fastforget::cpu {

// Uninitialised memory that begins on a cache line.
class Buffer {
 public:
  explicit Buffer(int64_t bytes) : data_(::operator new(static_cast<size_t>(bytes), kAlignment)) {}
  ~Buffer() { ::operator delete(data_, kAlignment); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* get() const { return data_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  void* data_;
};

}  // namespace fastforget::cpu
