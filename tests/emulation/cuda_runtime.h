// Runs CUDA kernels on the host, one block after another, so that their arithmetic, indexing and
// synchronisation can be tested and fuzzed on machines without a GPU. The .cu files are compiled as
// C++ with this folder in the include path: what they include as <cuda_runtime.h> is this file.
//
// A thread of a block is a fiber. It runs until it waits for its block (`__syncthreads`) or its
// warp (shuffles, votes, matrix products), and others run then: forwards, backwards or in a random
// order, which is what FASTFORGET_EMULATION_ORDER says ("forward", "backward" or a number). A
// result that depends on the order is a race. What a kernel leaves unwritten in shared memory reads
// as NaN; copies by cp.async happen as late as the kernel allows. Tensor cores cut sums off, as
// real ones do. FASTFORGET_EMULATION_MULTIPROCESSORS says how many the device has, by default
// three, so that work is shared in tests.
#pragma once

#include "emulated_block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
using cudaStream_t = struct EmulatedStream*;
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid argument";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  std::memset(data, value, bytes);
  return cudaSuccess;
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

namespace emulation {

// Dynamic shared memory that kernels asked for beyond what every kernel gets.
inline std::map<void (*)(), size_t> opted_in;
constexpr size_t kUnasked = 48 << 10, kMost = 227 << 10;

inline bool can_start(const cudaLaunchConfig_t& config, void (*kernel)()) {
  const dim3 grid = config.gridDim;
  const auto asked = opted_in.find(kernel);
  return grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 0x7fffffffu && grid.y <= 65535 &&
         grid.z <= 65535 &&
         config.dynamicSmemBytes <= (asked == opted_in.end() ? kUnasked : asked->second);
}

inline int multiprocessors() {
  const char* given = std::getenv("FASTFORGET_EMULATION_MULTIPROCESSORS");
  const int count = given ? std::atoi(given) : 3;
  if (count < 1) fail("FASTFORGET_EMULATION_MULTIPROCESSORS must be a number above 0");
  return count;
}

}  // namespace emulation

template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               Args&&... args) {
  if (!emulation::can_start(*config, reinterpret_cast<void (*)()>(kernel)))
    return cudaErrorInvalidValue;
  const std::tuple<std::decay_t<Params>...> given(std::forward<Args>(args)...);
  const std::function<void()> body = [&] { std::apply(kernel, given); };
  gridDim = config->gridDim, blockDim = config->blockDim;
  const dim3 grid = config->gridDim;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        emulation::block.run(config->blockDim, config->dynamicSmemBytes, body, emulation::seed());
      }
  return cudaSuccess;
}

enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = emulation::multiprocessors();
  return cudaSuccess;
}

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  if (bytes < 0 || size_t(bytes) > emulation::kMost) return cudaErrorInvalidValue;
  emulation::opted_in[reinterpret_cast<void (*)()>(kernel)] = size_t(bytes);
  return cudaSuccess;
}

inline void __syncthreads() { emulation::block.sync(); }
inline void __syncwarp() {
  int all[32];
  emulation::block.exchange(0, all);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int lanes) {
  T all[32];
  emulation::block.exchange(value, all);
  return all[emulation::block.lane() ^ lanes];
}
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  T all[32];
  emulation::block.exchange(value, all);
  return all[lane & 31];
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned lanes) {
  T all[32];
  emulation::block.exchange(value, all);
  const int from = emulation::block.lane() - int(lanes);
  return from < 0 ? value : all[from];
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  bool all[32];
  emulation::block.exchange(vote, all);
  unsigned votes = 0;
  for (int i = 0; i < 32; ++i) votes |= unsigned(all[i]) << i;
  return votes;
}

inline unsigned __umulhi(unsigned a, unsigned b) {
  return unsigned(static_cast<unsigned long long>(a) * b >> 32);
}
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __ffs(unsigned v) { return __builtin_ffs(int(v)); }
inline int __ffsll(unsigned long long v) { return __builtin_ffsll(static_cast<long long>(v)); }
inline unsigned __float_as_uint(float v) {
  unsigned bits;
  std::memcpy(&bits, &v, 4);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float v;
  std::memcpy(&v, &bits, 4);
  return v;
}
inline long long __double_as_longlong(double v) {
  long long bits;
  std::memcpy(&bits, &v, 8);
  return bits;
}
inline double __longlong_as_double(long long bits) {
  double v;
  std::memcpy(&v, &bits, 8);
  return v;
}
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
template <class T, class V>
T atomicAdd(T* to, V value) {
  const T before = *to;
  *to = T(before + T(value));
  return before;
}
template <class T>
T atomicMin(T* to, T value) {
  const T before = *to;
  *to = std::min(before, value);
  return before;
}
template <class T>
T atomicOr(T* to, T value) {
  const T before = *to;
  *to = before | value;
  return before;
}
template <class T>
T __ldg(const T* from) {
  return *from;
}
using std::max;
using std::min;
