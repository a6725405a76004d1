// What the emulation of tests/emulation must notice; test_emulation.py runs a case by name.
#include "../../csrc/kernels/cuda/ptx.cuh"

using fastforget::cuda::launch;

namespace {

unsigned seen[64];

void shuffles_after_an_end(int ended) {
  if (int(threadIdx.x) < ended) return;
  seen[threadIdx.x] = __shfl_xor_sync(0xffffffff, threadIdx.x, 1);
}

void keeps_in_shared_memory(int) {
  SHARED(unsigned, kept, [2]);
  if (threadIdx.x == 0) seen[2 * blockIdx.x] = kept[0], seen[2 * blockIdx.x + 1] = kept[1];
  __syncthreads();
  kept[threadIdx.x % 2] = 7;
}

void takes_much(int) {}

// 1 and 14 products of 2^-26, or all of it below zero: 1.75 units in the last place beyond 1.
void multiplies(int sign) {
  float d[4] = {float(sign), float(sign), float(sign), float(sign)};
  const unsigned small = 0x39003900, sign_bits = sign > 0 ? 0 : 0x80008000;  // 2^-13 in bfloat16
  const unsigned first = threadIdx.x % 4 == 0 ? 0 : small;  // two of the sixteen are zero
  const unsigned a[4] = {first, first, small, small};
  const unsigned b[2] = {small ^ sign_bits, small ^ sign_bits};
  fastforget::cuda::mma_bf16(d, a, b);
  seen[threadIdx.x] = __float_as_uint(d[0]);
}

template <class Kernel>
cudaError_t run(Kernel kernel, int value, unsigned blocks = 1, size_t bytes = 0) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks), config.blockDim = dim3(32), config.dynamicSmemBytes = bytes;
  return cudaLaunchKernelEx(&config, kernel, value);
}

}  // namespace

int main(int, char** arguments) {
  const std::string name = arguments[1];
  if (name == "shuffle") run(shuffles_after_an_end, std::atoi(arguments[2]));
  if (name == "static") {
    run(keeps_in_shared_memory, 0, 2);
    for (int i = 0; i < 4; ++i) std::printf("%08x ", seen[i]);
  }
  if (name == "dynamic") {
    std::printf("%d ", run(takes_much, 0, 1, 48 << 10));
    std::printf("%d ", run(takes_much, 0, 1, (48 << 10) + 1));
    cudaFuncSetAttribute(takes_much, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 << 10);
    std::printf("%d ", run(takes_much, 0, 1, 64 << 10));
    std::printf("%d ", run(takes_much, 0, 1, (64 << 10) + 1));
    std::printf("%d ", launch(takes_much, dim3(1), 32, 200 << 10, nullptr, 0));
  }
  if (name == "product") {
    run(multiplies, 1);
    std::printf("%08x ", seen[0]);
    run(multiplies, -1);
    std::printf("%08x ", seen[0]);
  }
  if (name == "multiprocessors") {
    int count = 0;
    cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0);
    std::printf("%d ", count);
  }
}
