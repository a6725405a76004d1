// What csrc/kernels/cuda/ptx.cuh says in PTX, on the host; see cuda_runtime.h.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define SHARED(type, name, ...) \
  static type name __VA_ARGS__; \
  emulation::static_shared.add(&name, sizeof(name))

namespace fastforget::cuda {

inline void* dynamic_shared() { return emulation::block.shared(); }

inline int once(int value) { return value; }

template <int kBytes>
void copy_async(void* shared, const void* global, int valid) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  if (reinterpret_cast<uintptr_t>(shared) % kBytes || reinterpret_cast<uintptr_t>(global) % kBytes)
    emulation::fail("cp.async of " + std::to_string(kBytes) + " bytes is not aligned");
  if (valid < 0 || valid > kBytes) emulation::fail("cp.async of too many bytes");
  emulation::block.copy_later({shared, global, kBytes, valid});
}
inline void copy_commit() { emulation::block.commit(); }
template <int kLeft>
void copy_wait() {
  emulation::block.wait(kLeft);
}

// Eight rows of eight 16-bit elements a matrix, whose addresses lanes 8i to 8i + 7 give.
inline void load_matrices(unsigned (&out)[4], const void* row, bool transposed) {
  if (reinterpret_cast<uintptr_t>(row) % 16) emulation::fail("ldmatrix is not aligned");
  const void* rows[32];
  emulation::block.exchange(row, rows);
  const int lane = emulation::block.lane(), g = lane / 4, t = lane % 4;
  for (int m = 0; m < 4; ++m) {
    uint16_t pair[2];
    for (int j = 0; j < 2; ++j) {
      const int r = transposed ? 2 * t + j : g, c = transposed ? g : 2 * t + j;
      pair[j] = static_cast<const uint16_t*>(rows[8 * m + r])[c];
    }
    out[m] = unsigned(pair[0]) | unsigned(pair[1]) << 16;
  }
}
inline void load_matrices(unsigned (&out)[4], const void* row) { load_matrices(out, row, false); }
inline void load_matrices_transposed(unsigned (&out)[4], const void* row) {
  load_matrices(out, row, true);
}

struct Fragments {
  unsigned a[4], b[2];
};

// What a tensor core keeps of a sum: it cuts off, towards zero.
inline float towards_zero(double sum) {
  const float nearest = float(sum);
  return std::fabs(double(nearest)) > std::fabs(sum) ? std::nextafter(nearest, 0.0f) : nearest;
}

// d += a b of one warp, K = 16 elements of 16 bits or 8 of 32: `value(register bits, k of the
// pair)`.
template <int kK, class Value>
void emulated_mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                  const Value& value) {
  Fragments mine, all[32];
  std::memcpy(mine.a, a, sizeof(a)), std::memcpy(mine.b, b, sizeof(b));
  emulation::block.exchange(mine, all);
  const int lane = emulation::block.lane(), g = lane / 4, t = lane % 4;
  constexpr int per = kK / 8;  // elements per register
  for (int i = 0; i < 4; ++i) {
    const int row = g + i / 2 * 8, col = 2 * t + i % 2;
    double sum = d[i];
    for (int k = 0; k < kK; ++k) {
      const int half = k / (4 * per), within = k % (4 * per), owner = within / per;
      const unsigned left = all[row % 8 * 4 + owner].a[row / 8 + 2 * half];
      const unsigned right = all[col * 4 + owner].b[half];
      sum += double(value(left, within % per)) * double(value(right, within % per));
    }
    d[i] = towards_zero(sum);
  }
}

inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulated_mma<16>(d, a, b, [](unsigned bits, int j) {
    return __uint_as_float((j ? bits >> 16 : bits & 0xffff) << 16);
  });
}
inline void mma_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulated_mma<16>(d, a, b, [](unsigned bits, int j) {
    return __half2float({static_cast<unsigned short>(j ? bits >> 16 : bits)});
  });
}
inline void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulated_mma<8>(d, a, b, [](unsigned bits, int) { return __uint_as_float(bits & 0xffffe000u); });
}

}  // namespace fastforget::cuda
