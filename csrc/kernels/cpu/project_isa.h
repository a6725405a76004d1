// The projection kernels of one instruction set. Included by project_kernels.cpp, which defines
// FF_VECTOR_BYTES.
//
// A tile sums the products of some pairs of gradients over a chunk, in registers. Both passes
// stream K gradients once, the second also writes one: bound by memory bandwidth. Elements are
// widened to float64, in which products of two float32 are exact and can neither overflow nor
// vanish.

#include "isa_begin.h"

namespace fastforget::cpu::FF_ISA {
namespace {

#include "simd.h"

using Doubles = Simd<double>::Vec;
constexpr int kLanes = Simd<double>::lanes;

// Written lane by lane, which compilers turn into one conversion of a vector.
template <class In>
inline Doubles load_wide(const In* p) {
  alignas(FF_VECTOR_BYTES) double lanes[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = widen(p[lane]);
  return load(lanes);
}

template <class Out>
inline void store_narrow(Out* p, Doubles v) {
  alignas(FF_VECTOR_BYTES) double lanes[kLanes];
  store(lanes, v);
  for (int lane = 0; lane < kLanes; ++lane) p[lane] = static_cast<Out>(lanes[lane]);
}

// Processors fetch ahead by themselves, but stop at the end of each page; with K streams that costs
// a sixth of the bandwidth. An address beyond the end of a tensor does no harm.
template <class In>
inline void fetch_ahead(const In* p, int64_t size) {
  constexpr int64_t kAhead = 2048, kLine = 64;  // bytes
  const uintptr_t from = reinterpret_cast<uintptr_t>(p) + kAhead;
  for (int64_t byte = 0; byte < size * int64_t(sizeof(In)); byte += kLine)
    __builtin_prefetch(reinterpret_cast<const void*>(from + uintptr_t(byte)));
}

template <class In>
struct Project {
  // A tile holds the sums of R x C pairs of gradients. The one at the diagonal reads up to kTile
  // gradients once, so that arithmetic and memory overlap although some of its sums are spilled.
  // Only beyond kTile tasks are there tiles beside it, which read a block again, from a cache.
  static constexpr int kTile = 8;
  static constexpr int kColumns = 2;
  static constexpr int64_t kBlock = 1024;

  static const In* first(const GradChunk& chunk, int64_t k) {
    return static_cast<const In*>(chunk.grads[k]) + chunk.offset;
  }

  static void gram(const GradChunk& chunk, int64_t K, double* gram) {
    for (int64_t begin = 0; begin < chunk.size; begin += kBlock) {
      const int64_t end = std::min(begin + kBlock, chunk.size);
      for (int64_t row = 0; row < K; row += kTile) {
        diagonal<kTile>(chunk, K, row, begin, end, gram);
        for (int64_t column = row + kTile; column < K; column += kColumns)
          beside<kColumns>(chunk, K, row, column, begin, end, gram);
      }
    }
  }

  // The tile at the diagonal: as many rows and columns as are left, at most R.
  template <int R>
  static void diagonal(const GradChunk& chunk, int64_t K, int64_t row, int64_t begin, int64_t end,
                       double* gram) {
    if constexpr (R > 1)
      if (K - row < R) return diagonal<R - 1>(chunk, K, row, begin, end, gram);
    tile<R, R, true>(chunk, K, row, row, begin, end, gram);
  }

  // A tile right of the diagonal: kTile rows, as many columns as are left, at most C.
  template <int C>
  static void beside(const GradChunk& chunk, int64_t K, int64_t row, int64_t column, int64_t begin,
                     int64_t end, double* gram) {
    if constexpr (C > 1)
      if (K - column < C) return beside<C - 1>(chunk, K, row, column, begin, end, gram);
    tile<kTile, C, false>(chunk, K, row, column, begin, end, gram);
  }

  // gram[row + r, column + c] += <g_(row + r), g_(column + c)> over elements [begin, end).
  template <int R, int C, bool kDiagonal>
  static void tile(const GradChunk& chunk, int64_t K, int64_t row, int64_t column, int64_t begin,
                   int64_t end, double* gram) {
    const In *a[R], *b[C];
    for (int r = 0; r < R; ++r) a[r] = first(chunk, row + r);
    for (int c = 0; c < C; ++c) b[c] = first(chunk, column + c);
    // Loops over sums are unrolled: only an index known at compile time keeps a sum in a register.
    Doubles sums[R][C] = {};
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      Doubles x[R], y[C];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        if constexpr (kDiagonal) fetch_ahead(a[r] + i, kLanes);
        x[r] = load_wide(a[r] + i);
      }
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) y[c] = kDiagonal ? x[c] : load_wide(b[c] + i);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int c = kDiagonal ? r : 0; c < C; ++c) sums[r][c] += x[r] * y[c];
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int c = kDiagonal ? r : 0; c < C; ++c) {
        double sum = 0;
        for (int64_t t = i; t < end; ++t) sum += double(widen(a[r][t])) * double(widen(b[c][t]));
        for (int lane = 0; lane < kLanes; ++lane) sum += sums[r][c][lane];
        gram[(row + r) * K + column + c] += sum;
      }
    }
  }

  static void combine(const GradChunk& chunk, int64_t K, const double* weights, void* out) {
    In* to = static_cast<In*>(out) + chunk.offset;
    if constexpr (sizeof(In) >= sizeof(float)) {
      sum(chunk, K, weights, 0, chunk.size, to);
    } else {  // rounding to a half type takes a loop of its own to vectorise
      float sums[kBlock];
      for (int64_t begin = 0; begin < chunk.size; begin += kBlock) {
        const int64_t end = std::min(begin + kBlock, chunk.size);
        sum(chunk, K, weights, begin, end, sums);
        for (int64_t i = begin; i < end; ++i) to[i] = narrow<In>(sums[i - begin]);
      }
    }
  }

  // sums = sum_k weights[k] * g_k over elements [begin, end).
  template <class Sum>
  static void sum(const GradChunk& chunk, int64_t K, const double* weights, int64_t begin,
                  int64_t end, Sum* sums) {
    constexpr int kVectors = 4;
    int64_t i = begin;
    for (; i + kVectors * kLanes <= end; i += kVectors * kLanes) {
      Doubles values[kVectors] = {};
      for (int64_t k = 0; k < K; ++k) {
        const In* from = first(chunk, k) + i;
        fetch_ahead(from, kVectors * kLanes);
        for (int v = 0; v < kVectors; ++v) values[v] += weights[k] * load_wide(from + v * kLanes);
      }
      for (int v = 0; v < kVectors; ++v) store_narrow(sums + i - begin + v * kLanes, values[v]);
    }
    for (; i < end; ++i) {
      double value = 0;
      for (int64_t k = 0; k < K; ++k) value += weights[k] * double(widen(first(chunk, k)[i]));
      sums[i - begin] = static_cast<Sum>(value);
    }
  }
};

void gram(const GradChunk& chunk, int64_t K, double* gram) {
  with_dtype(chunk.dtype, [&](auto x) { Project<decltype(x)>::gram(chunk, K, gram); });
}

void combine(const GradChunk& chunk, int64_t K, const double* weights, void* out) {
  with_dtype(chunk.dtype, [&](auto x) { Project<decltype(x)>::combine(chunk, K, weights, out); });
}

}  // namespace

extern const ProjectKernels project_kernels;
const ProjectKernels project_kernels = {gram, combine};

}  // namespace fastforget::cpu::FF_ISA

#include "isa_end.h"
