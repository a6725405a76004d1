// Threads take chunks of the mask in turn and touch parameters and directions only where it has a
// one. A sparse selection moves little more than the mask. Bound by memory bandwidth, or for a
// sparse selection by cache misses: of these, many are asked for before the first is waited for.
#include "perturb.h"

#include "element.h"

namespace fastforget::cpu {
namespace {

// Whether a chunk has so few ones that most have a cache line of their own.
bool is_sparse(const RankedMask& mask, size_t c) {
  return (mask.rank(c + 1) - mask.rank(c)) * 32 < mask.chunks()[c].size;
}

// Calls ask(index) for some dozens of ones, then visit(index, rank) for each of these.
template <class Ask, class Visit>
void for_ones_ahead(const uint64_t* words, int64_t count, const Ask& ask, const Visit& visit) {
  constexpr int64_t kBlock = 64;
  int64_t places[kBlock], asked = 0, rank = 0;
  const auto flush = [&] {
    for (int64_t i = 0; i < asked; ++i) visit(places[i], rank++);
    asked = 0;
  };
  for_ones(words, count, [&](int64_t at, int64_t) {
    ask(at);
    places[asked++] = at;
    if (asked == kBlock) flush();
  });
  flush();
}

template <class P, class S>
void perturb_words(P* parameters, const S* directions, const uint64_t* words, int64_t count,
                   S alpha, P* old, bool sparse) {
  const auto change = [&](int64_t at, int64_t rank) {
    old[rank] = parameters[at];
    parameters[at] = narrow<P>(static_cast<S>(widen(parameters[at])) + alpha * directions[at]);
  };
  const auto ask = [&](int64_t at) {
    __builtin_prefetch(parameters + at, 1);
    __builtin_prefetch(directions + at);
  };
  sparse ? for_ones_ahead(words, count, ask, change) : for_ones(words, count, change);
}

template <class P, class S>
void perturb_typed(const RankedMask& mask, void* const* parameters, const void* const* directions,
                   S alpha, void* old, const Parallel& parallel) {
  for_chunks(mask.chunks().size(), parallel, [&](size_t c) {
    const Chunk& chunk = mask.chunks()[c];
    perturb_words(static_cast<P*>(parameters[chunk.tensor]) + chunk.offset,
                  static_cast<const S*>(directions[chunk.tensor]) + chunk.offset, mask.words(chunk),
                  chunk.words(), alpha, static_cast<P*>(old) + mask.rank(c), is_sparse(mask, c));
  });
}

}  // namespace

void perturb(const RankedMask& mask, DType parameter, DType direction, void* const* parameters,
             const void* const* directions, double alpha, void* old, const Parallel& parallel) {
  with_dtype(parameter, [&](auto p) {
    using P = decltype(p);
    if (direction == DType::f64)
      perturb_typed<P>(mask, parameters, directions, alpha, old, parallel);
    else
      perturb_typed<P>(mask, parameters, directions, static_cast<float>(alpha), old, parallel);
  });
}

void perturb_undo(const RankedMask& mask, int element_size, void* const* parameters,
                  const void* old, const Parallel& parallel) {
  with_word(element_size, [&](auto element) {
    using Word = decltype(element);
    for_chunks(mask.chunks().size(), parallel, [&](size_t c) {
      const Chunk& chunk = mask.chunks()[c];
      Word* const to = static_cast<Word*>(parameters[chunk.tensor]) + chunk.offset;
      const Word* const from = static_cast<const Word*>(old) + mask.rank(c);
      const auto put_back = [&](int64_t at, int64_t rank) { to[at] = from[rank]; };
      const auto ask = [&](int64_t at) { __builtin_prefetch(to + at, 1); };
      const uint64_t* const words = mask.words(chunk);
      is_sparse(mask, c) ? for_ones_ahead(words, chunk.words(), ask, put_back)
                         : for_ones(words, chunk.words(), put_back);
    });
  });
}

void perturb_write(int64_t L, int element_size, int index_size, void* const* parameters,
                   const void* indices, const int64_t* counts, const void* values) {
  with_word(element_size, [&](auto element) {
    using Word = decltype(element);
    const auto write = [&](auto index) {
      const auto* at = static_cast<const decltype(index)*>(indices);
      const auto* from = static_cast<const Word*>(values);
      for (int64_t l = 0; l < L; ++l)
        for (int64_t i = 0; i < counts[l]; ++i) static_cast<Word*>(parameters[l])[*at++] = *from++;
    };
    index_size == 4 ? write(int32_t{}) : write(int64_t{});
  });
}

}  // namespace fastforget::cpu
