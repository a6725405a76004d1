// The register tile of the matrix kernels: c += sum_t g[t, :]^T a[t, :], squares, sums, and the way
// back to memory.
//
// `a` are panels [position][columns], `g` panels [t][rows]; both are packed (fisher_panels.h).
//
// Included inside a namespace per instruction set, see simd.h.

// Tile sizes fill the register file: 12 x 2 accumulators of 32 registers, 6 x 2 of 16, 4 x 2 on
// SSE/NEON. The products of few positions use a part of the rows, so that sums of squares (and of
// the products themselves) have registers as well; with 16 registers there is no room for both.
template <class S>
struct Tile {
  static constexpr int rows = FF_VECTOR_BYTES == 64 ? 12 : FF_VECTOR_BYTES == 32 ? 6 : 4;
  static constexpr int rows_with_squares = rows / 2;
  static constexpr int rows_with_both = FF_VECTOR_BYTES == 64 ? rows / 3 : 0;
  static constexpr int vectors = 2;
  static constexpr int columns = vectors * Simd<S>::lanes;
  static constexpr int size = rows * columns;
};

// Which positions a product runs over: all of t = 0, 1, … in step, or pairs of element offsets into
// the two panels.
struct Step {
  int32_t a, g;
};
struct Range {
  const Step* steps;  // null: every position
  int64_t count;
};

constexpr int64_t kAhead = 8;  // positions

template <class S, int rows>
using Products = typename Simd<S>::Vec[rows][2];

template <class S, int rows>
inline __attribute__((always_inline)) void multiply_position(const S* a, const S* g,
                                                             Products<S, rows>& c) {
  const auto a0 = load(a), a1 = load(a + Simd<S>::lanes);
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    c[r][0] += g[r] * a0;
    c[r][1] += g[r] * a1;
  }
}

// Lines to fetch meanwhile, one a position.
struct Ahead {
  const char* at;
  int64_t step;
};

template <class S, int rows, bool fetches = false>
inline __attribute__((always_inline)) void multiply(const S* __restrict a, const S* __restrict g,
                                                    Range range, Products<S, rows>& c,
                                                    Ahead ahead = {}) {
  if (range.steps == nullptr) {
#pragma GCC unroll 4
    for (int64_t t = 0; t < range.count; ++t, a += Tile<S>::columns, g += Tile<S>::rows) {
      // The panel comes from L2, some hundred cycles ahead of its use.
      for (int64_t i = 0; i < Tile<S>::columns; i += 64 / int64_t(sizeof(S)))
        __builtin_prefetch(a + kAhead * Tile<S>::columns + i);
      if constexpr (fetches) __builtin_prefetch(ahead.at + t * ahead.step, 0, 2);
      multiply_position<S, rows>(a, g, c);
    }
  } else {
    const Step* s = range.steps;
#pragma GCC unroll 4
    for (int64_t k = 0; k < range.count; ++k, ++s)
      multiply_position<S, rows>(a + s->a, g + s->g, c);
  }
}

template <class S, int rows>
inline __attribute__((always_inline)) void load_tile(const S* from, Products<S, rows>& c) {
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < 2; ++v) c[r][v] = load(from + r * Tile<S>::columns + v * Simd<S>::lanes);
}

template <class S, int rows>
inline __attribute__((always_inline)) void store_tile(const Products<S, rows>& c, S* to) {
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < 2; ++v) store(to + r * Tile<S>::columns + v * Simd<S>::lanes, c[r][v]);
}

// to += w c^2, or to += w c.
template <class S, int rows, bool square>
inline __attribute__((always_inline)) void fold(const Products<S, rows>& c, S w, S* __restrict to) {
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < 2; ++v) {
      const auto scaled = w * c[r][v];
      S* p = to + r * Tile<S>::columns + v * Simd<S>::lanes;
      store(p, load(p) + (square ? scaled * c[r][v] : scaled));
    }
  }
}

// fisher += w sum_n c_n^2 and, where asked for, gradient += w sum_n c_n, over `samples` samples
// that stand `a_step` and `g_step` elements apart. The sums stay in registers.
template <class S, int rows, bool with_gradient>
inline void sum_samples(const S* __restrict a, int64_t a_step, const S* __restrict g,
                        int64_t g_step, int64_t samples, Range range, S w, S* __restrict fisher,
                        S* __restrict gradient) {
  Products<S, rows> squares = {}, sums = {};
  for (int64_t n = 0; n < samples; ++n, a += a_step, g += g_step) {
    Products<S, rows> c = {};
    multiply<S, rows>(a, g, range, c);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      for (int v = 0; v < 2; ++v) {
        squares[r][v] += c[r][v] * c[r][v];
        if (with_gradient) sums[r][v] += c[r][v];
      }
    }
  }
  fold<S, rows, false>(squares, w, fisher);
  if (with_gradient) fold<S, rows, false>(sums, w, gradient);
}

// to += from, or to = from where the destination holds nothing yet.
template <bool overwrite, class S>
inline void put(S from, S& to) {
  to = overwrite ? from : to + from;
}

// destination[o, i] += (or =) tile[o, i], clipped to `rows` and `columns`; a row of the destination
// is `row_step` elements.
template <bool overwrite, class S>
inline void flush(const S* tile, int64_t rows, int64_t columns, int64_t row_step, S* destination) {
  constexpr int64_t lanes = Simd<S>::lanes;
  for (int64_t r = 0; r < rows; ++r) {
    S* to = destination + r * row_step;
    const S* from = tile + r * Tile<S>::columns;
    int64_t j = 0;
    for (; j + lanes <= columns; j += lanes)
      store(to + j, overwrite ? load(from + j) : load(to + j) + load(from + j));
    for (; j < columns; ++j) put<overwrite>(from[j], to[j]);
  }
}

// destination[o, channel * taps + k] += (or =) tile k [o, channel], for `count` tiles `tile_step`
// elements apart, in blocks of 4 channels x 4 taps.
template <bool overwrite, class S>
inline void flush_taps(const S* tiles, int64_t tile_step, int64_t count, int64_t rows,
                       int64_t channels, int64_t taps, int64_t row_step, S* destination) {
  typedef S Four __attribute__((vector_size(4 * sizeof(S)), aligned(sizeof(S))));
  for (int64_t r = 0; r < rows; ++r) {
    S* row = destination + r * row_step;
    const S* from = tiles + r * Tile<S>::columns;
    int64_t c = 0;
    for (; c + 4 <= channels; c += 4) {
      int64_t k = 0;
      for (; k + 4 <= count; k += 4) {
        alignas(64) S block[16];
        for (int j = 0; j < 4; ++j)
          *reinterpret_cast<Four*>(block + 4 * j) =
              *reinterpret_cast<const Four*>(from + (k + j) * tile_step + c);
        alignas(64) S turned[16];
        transpose<4>(block, 4, 4, turned);
        for (int j = 0; j < 4; ++j) {
          Four* const to = reinterpret_cast<Four*>(row + (c + j) * taps + k);
          const Four four = *reinterpret_cast<const Four*>(turned + 4 * j);
          *to = overwrite ? four : *to + four;
        }
      }
      for (; k < count; ++k)
        for (int j = 0; j < 4; ++j)
          put<overwrite>(from[k * tile_step + c + j], row[(c + j) * taps + k]);
    }
    for (; c < channels; ++c)
      for (int64_t k = 0; k < count; ++k)
        put<overwrite>(from[k * tile_step + c], row[c * taps + k]);
  }
}
