// Parameters and directions are touched only where the mask has a one, so a sparse selection moves
// little more than the mask. Bound by memory bandwidth, or for a sparse one by cache misses.
#include "../perturb.h"

#include "half.h"

namespace fastforget {
namespace {

using cpu::narrow;
using cpu::widen;

// Calls visit(index, rank) for every one of a mask.
template <class Visit>
inline void for_ones(const uint64_t* mask, int64_t words, const Visit& visit) {
  int64_t rank = 0;
  for (int64_t w = 0; w < words; ++w)
    for (uint64_t set = mask[w]; set; set &= set - 1) visit(64 * w + __builtin_ctzll(set), rank++);
}

template <class P, class S>
void perturb(P* parameters, const S* directions, const uint64_t* mask, int64_t words, S alpha,
             P* old) {
  for_ones(mask, words, [&](int64_t at, int64_t rank) {
    old[rank] = parameters[at];
    parameters[at] = narrow<P>(static_cast<S>(widen(parameters[at])) + alpha * directions[at]);
  });
}

void perturb_typed(DType parameter, DType direction, void* parameters, const void* directions,
                   const uint64_t* mask, int64_t words, double alpha, void* old) {
  cpu::with_dtype(parameter, [&](auto p) {
    using P = decltype(p);
    const auto run = [&](auto s) {
      using S = decltype(s);
      perturb(static_cast<P*>(parameters), static_cast<const S*>(directions), mask, words,
              static_cast<S>(alpha), static_cast<P*>(old));
    };
    direction == DType::f64 ? run(double{}) : run(float{});
  });
}

// Calls function with an unsigned integer of the size.
template <class Function>
void with_word(int size, const Function& function) {
  switch (size) {
    case 2:
      return function(uint16_t{});
    case 4:
      return function(uint32_t{});
    default:
      return function(uint64_t{});
  }
}

void undo(int element_size, void* parameters, const uint64_t* mask, int64_t words,
          const void* old) {
  with_word(element_size, [&](auto word) {
    using Word = decltype(word);
    for_ones(mask, words, [&](int64_t at, int64_t rank) {
      static_cast<Word*>(parameters)[at] = static_cast<const Word*>(old)[rank];
    });
  });
}

void indices(int index_size, const uint64_t* mask, int64_t words, int64_t offset, void* indices) {
  with_word(index_size, [&](auto word) {
    using Word = decltype(word);
    for_ones(mask, words, [&](int64_t at, int64_t rank) {
      static_cast<Word*>(indices)[rank] = static_cast<Word>(offset + at);
    });
  });
}

void bytes(const uint64_t* mask, int64_t size, bool* bytes) {
  for (int64_t i = 0; i < size; ++i) bytes[i] = mask[i / 64] >> i % 64 & 1;
}

void write(int element_size, int index_size, void* parameters, const void* indices,
           const void* values, int64_t count) {
  with_word(element_size, [&](auto word) {
    using Word = decltype(word);
    const auto run = [&](auto index) {
      for (int64_t i = 0; i < count; ++i)
        static_cast<Word*>(parameters)[static_cast<const decltype(index)*>(indices)[i]] =
            static_cast<const Word*>(values)[i];
    };
    index_size == 4 ? run(int32_t{}) : run(int64_t{});
  });
}

}  // namespace

const PerturbKernels& perturb_kernels_cpu() {
  static const PerturbKernels kernels = {perturb_typed, undo, indices, bytes, write};
  return kernels;
}

}  // namespace fastforget
