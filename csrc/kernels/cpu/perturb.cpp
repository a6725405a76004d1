// Parameters and directions are touched only where an element is selected. There are no branches,
// so misses of a sparse selection overlap, and a dense one runs at memory bandwidth.
#include "../perturb.h"

#include "scores.h"

namespace fastforget {
namespace {

using cpu::narrow;
using cpu::widen;

template <class P, class S>
void perturb(P* parameters, const S* directions, const int32_t* positions, int64_t count, S alpha,
             P* old) {
  for (int64_t i = 0; i < count; ++i) {
    const int32_t at = positions[i];
    old[i] = parameters[at];
    parameters[at] = narrow<P>(static_cast<S>(widen(parameters[at])) + alpha * directions[at]);
  }
}

template <class Word, class Index>
void write(void* parameters, const void* indices, const void* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    static_cast<Word*>(parameters)[static_cast<const Index*>(indices)[i]] =
        static_cast<const Word*>(values)[i];
}

template <class Index>
void write_words(int element_size, void* parameters, const void* indices, const void* values,
                 int64_t count) {
  switch (element_size) {
    case 2:
      return write<uint16_t, Index>(parameters, indices, values, count);
    case 4:
      return write<uint32_t, Index>(parameters, indices, values, count);
    default:
      return write<uint64_t, Index>(parameters, indices, values, count);
  }
}

}  // namespace

const PerturbKernels& perturb_kernels_cpu() {
  static const PerturbKernels kernels = {
      [](DType parameter, DType direction, void* parameters, const void* directions,
         const int32_t* positions, int64_t count, double alpha, void* old) {
        cpu::with_score_type(parameter, [&](auto p) {
          using P = decltype(p);
          const auto run = [&](auto s) {
            using S = decltype(s);
            perturb(static_cast<P*>(parameters), static_cast<const S*>(directions), positions,
                    count, static_cast<S>(alpha), static_cast<P*>(old));
          };
          direction == DType::f64 ? run(double{}) : run(float{});
        });
      },
      [](int element_size, int index_size, void* parameters, const void* indices,
         const void* values, int64_t count) {
        index_size == 4 ? write_words<int32_t>(element_size, parameters, indices, values, count)
                        : write_words<int64_t>(element_size, parameters, indices, values, count);
      }};
  return kernels;
}

}  // namespace fastforget
