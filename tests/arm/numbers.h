// Random tensors of every element type, and the comparison with what was computed in double.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "../../csrc/kernels/cpu/element.h"
#include "../../csrc/kernels/cpu/parallel.h"

namespace fastforget::tests {

inline const char* name_of(DType dtype) {
  constexpr const char* names[] = {"float32", "float64", "bfloat16", "float16"};
  return names[int(dtype)];
}

// Elements of one type in memory, and the same numbers in double.
struct Values {
  DType dtype;
  std::vector<unsigned char> bytes;
  std::vector<double> numbers;

  Values(DType type, int64_t count)
      : dtype(type), bytes(size_t(count * element_size(type))), numbers(size_t(count)) {}

  void* data() { return bytes.data(); }
  int64_t size() const { return int64_t(numbers.size()); }

  // Stores a number, rounded to the type, and the double of what was stored.
  void set(int64_t i, double number) {
    unsigned char* at = bytes.data() + i * element_size(dtype);
    const auto put = [&](auto element) {
      std::memcpy(at, &element, sizeof element);
      numbers[size_t(i)] = double(cpu::widen(element));
    };
    switch (dtype) {
      case DType::f32:
        return put(float(number));
      case DType::f64:
        return put(number);
      case DType::bf16:
        return put(cpu::narrow<cpu::BFloat16>(float(number)));
      case DType::f16:
        return put(cpu::narrow<cpu::Half>(float(number)));
    }
  }

  // Reads the numbers again, after a kernel has written them.
  void refresh() {
    for (int64_t i = 0; i < size(); ++i) {
      const unsigned char* at = bytes.data() + i * element_size(dtype);
      const auto get = [&](auto element) {
        std::memcpy(&element, at, sizeof element);
        numbers[size_t(i)] = double(cpu::widen(element));
      };
      switch (dtype) {
        case DType::f32:
          get(float{});
          break;
        case DType::f64:
          get(double{});
          break;
        case DType::bf16:
          get(cpu::BFloat16{});
          break;
        case DType::f16:
          get(cpu::Half{});
          break;
      }
    }
  }
};

inline std::mt19937_64& generator() {
  static std::mt19937_64 numbers(7);
  return numbers;
}

inline Values normal(DType dtype, int64_t count) {
  Values values(dtype, count);
  std::normal_distribution<double> draw;
  for (int64_t i = 0; i < count; ++i) values.set(i, draw(generator()));
  return values;
}

inline DType sum_type(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

// Ranges of work one after the other, cut into as many as asked for.
template <int ranges>
cpu::Parallel cut_into() {
  return {[](int64_t count, int64_t grain, cpu::Parallel::Range range, const void* work) {
            const int64_t each = std::max((count + ranges - 1) / ranges, grain);
            for (int64_t begin = 0; begin < count; begin += each)
              range(work, begin, std::min(begin + each, count));
          },
          [] { return int64_t(ranges); }};
}

inline int& checks() {
  static int count = 0;
  return count;
}

inline void expect(bool right, const char* what, const char* of) {
  ++checks();
  if (right) return;
  std::fprintf(stderr, "wrong: %s, %s\n", what, of);
  std::exit(1);
}

// The norm of the difference is small beside the norm of what is right.
inline void expect_close(Values& found, const std::vector<double>& right, double tolerance,
                         const char* what) {
  found.refresh();
  double difference = 0, size = 0;
  for (size_t i = 0; i < right.size(); ++i) {
    difference += (found.numbers[i] - right[i]) * (found.numbers[i] - right[i]);
    size += right[i] * right[i];
  }
  expect(difference <= tolerance * tolerance * size, what, name_of(found.dtype));
}

}  // namespace fastforget::tests
