// Per-sample squared matrix products: F[o, i] += sum_n w_n (sum_t grad[n, t, o] input[n, t, i])^2.
//
// A register tile of kRows x kColumns holds c_n while t runs; when a sample ends its square is
// added to a tile of F in L1, and only when the chunk of samples ends does that tile go to memory.
// The operands are read from packed panels: grad as [row tile][n, t][kRows] (packed once per chunk
// and shared), input as [n, t][kColumns] (packed by whoever owns the block of columns, sized for
// L2). Convolutions are packed straight from the input tensor, there is no im2col buffer.
//
// Bytes: each input element is packed ceil(O / row block) times, each grad element read
// I / kColumns times from L2/L3. FLOP: 2 N T O I, as for the ordinary weight gradient; compute
// bound for T >= 8, bound by the L1 round trip of the F tile below.
//
// Included inside a namespace per instruction set, see simd.h.

constexpr int64_t kPanelBytes = 192 * 1024;  // input panel: half of a small L2
constexpr int64_t kStrip = 128;  // positions gathered at once before they are transposed

// Tile sizes fill the register file: 12 x 2 accumulators of 32 registers, 6 x 2 of 16, 4 x 2 on
// SSE/NEON.
template <class S>
struct Tile {
  static constexpr int rows = FF_VECTOR_BYTES == 64 ? 12 : FF_VECTOR_BYTES == 32 ? 6 : 4;
  static constexpr int vectors = 2;
  static constexpr int columns = vectors * Simd<S>::lanes;
  static constexpr int size = rows * columns;
};

// c (+)= sum_t g[t, :]^T a[t, :] over packed panels. `c` is a [rows, columns] buffer.
template <class S, bool resume>
inline __attribute__((always_inline)) void multiply(const S* __restrict a, const S* __restrict g,
                                                    int64_t T,
                                                    typename Simd<S>::Vec (&c)[Tile<S>::rows][2],
                                                    const S* __restrict previous) {
  using V = typename Simd<S>::Vec;
  constexpr int R = Tile<S>::rows, L = Simd<S>::lanes, C = Tile<S>::columns;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    c[r][0] = resume ? load(previous + r * C) : V{};
    c[r][1] = resume ? load(previous + r * C + L) : V{};
  }
  for (int64_t t = 0; t < T; ++t, a += C, g += R) {
    const V a0 = load(a), a1 = load(a + L);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      c[r][0] += g[r] * a0;
      c[r][1] += g[r] * a1;
    }
  }
}

// to += w c^2, or to += w c.
template <class S, bool square>
inline __attribute__((always_inline)) void fold(typename Simd<S>::Vec (&c)[Tile<S>::rows][2], S w,
                                                S* __restrict to) {
  constexpr int R = Tile<S>::rows, L = Simd<S>::lanes, C = Tile<S>::columns;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < 2; ++v) {
      const auto scaled = w * c[r][v];
      S* p = to + r * C + v * L;
      store(p, load(p) + (square ? scaled * c[r][v] : scaled));
    }
  }
}

// destination[o, i] += tile, clipped to the matrix.
template <class S>
inline void flush(const S* tile, int64_t row0, int64_t col0, int64_t O, int64_t I, S* destination) {
  const int64_t rows = std::min<int64_t>(Tile<S>::rows, O - row0);
  const int64_t columns = std::min<int64_t>(Tile<S>::columns, I - col0);
  for (int64_t r = 0; r < rows; ++r) {
    S* to = destination + (row0 + r) * I + col0;
    const S* from = tile + r * Tile<S>::columns;
    for (int64_t j = 0; j < columns; ++j) to[j] += from[j];
  }
}

// panel[t][0..width) for t in [0, t1 - t0): `valid` real columns, zeros behind them.
// `column(c, a, b, dst)` writes positions [a, b) of column c.
template <int width, class S, class Column>
inline void pack_columns(int64_t valid, int64_t t0, int64_t t1, S* panel, const Column& column) {
  alignas(64) S strip[width * (kStrip + 16 / sizeof(S))];
  constexpr int64_t ld = kStrip + 16 / sizeof(S);  // off the power of two: no cache-set conflicts
  for (int64_t c = valid; c < width; ++c) std::fill_n(strip + c * ld, kStrip, S(0));
  for (int64_t a = t0; a < t1; a += kStrip) {
    const int64_t b = std::min(t1, a + kStrip);
    for (int64_t c = 0; c < valid; ++c) column(c, a, b, strip + c * ld);
    transpose<width>(strip, ld, b - a, panel + (a - t0) * width);
  }
}

// The same from a strided matrix, source[t * row_stride + c * column_stride].
template <int width, class S, class In>
inline void pack_matrix(const In* source, int64_t row_stride, int64_t column_stride, int64_t valid,
                        int64_t t0, int64_t t1, S* panel) {
  if (column_stride == 1) {
    for (int64_t t = t0; t < t1; ++t, panel += width) {
      if (valid == width) {
        for (int c = 0; c < width; ++c) panel[c] = widen(source[t * row_stride + c]);
      } else {
        for (int64_t c = 0; c < width; ++c)
          panel[c] = c < valid ? widen(source[t * row_stride + c]) : S(0);
      }
    }
    return;
  }
  pack_columns<width>(valid, t0, t1, panel, [&](int64_t c, int64_t a, int64_t b, S* dst) {
    copy_widened(source + a * row_stride + c * column_stride, row_stride, b - a, dst);
  });
}

template <class In>
struct MatmulKernel {
  using S = typename Accumulate<In>::type;
  static constexpr int R = Tile<S>::rows, C = Tile<S>::columns, kTile = Tile<S>::size;
  static constexpr int64_t kPanelRows = kPanelBytes / (C * int64_t(sizeof(S)));

  static MatmulPlan plan(const MatmulFisher& f, int64_t threads) {
    MatmulPlan p;
    p.chunk = std::min(std::max<int64_t>(1, kPanelRows / f.T), f.N);
    p.row_tiles = (f.O + R - 1) / R;
    const int64_t blocks = (f.I + C - 1) / C;
    // Few blocks of columns: split the rows too, just enough for the threads to share evenly.
    p.row_blocks =
        blocks >= 4 * threads ? 1 : std::min(p.row_tiles, threads / std::gcd(blocks, threads));
    p.units = blocks * p.row_blocks;
    p.packed_bytes = p.row_tiles * R * p.chunk * f.T * int64_t(sizeof(S));
    const int64_t panel = std::min(kPanelRows, p.chunk * f.T) * C;
    const int64_t partial = f.T > kPanelRows ? p.row_tiles * kTile : 0;
    p.scratch_bytes = (panel + partial + 2 * f.G * kTile) * int64_t(sizeof(S));
    return p;
  }

  static const In* grad_of(const MatmulFisher& f, int64_t n) {
    return static_cast<const In*>(f.grad) + f.samples[n] * f.grad_stride[0];
  }

  static S weight(const MatmulFisher& f, int64_t g, int64_t n) {
    return static_cast<const S*>(f.weights)[g * f.batch + f.samples[n]];
  }

  static void pack(const MatmulFisher& f, const MatmulPlan& plan, int64_t n0, int64_t n1,
                   void* packed, int64_t begin, int64_t end) {
    const int64_t rows = plan.chunk * f.T;
    for (int64_t tile = begin; tile < end; ++tile) {
      S* panel = static_cast<S*>(packed) + tile * rows * R;
      const int64_t o = tile * R, valid = std::min<int64_t>(R, f.O - o);
      for (int64_t n = n0; n < n1; ++n, panel += f.T * R) {
        pack_matrix<R>(grad_of(f, n) + o * f.grad_stride[2], f.grad_stride[1], f.grad_stride[2],
                       valid, 0, f.T, panel);
        if (f.flat_power == 0) continue;
        const S w = weight(f, f.flat_group, n);
        for (int r = 0; r < R; ++r)
          panel[r] = f.flat_power == 2 ? w * panel[r] * panel[r] : w * panel[r];
      }
    }
  }

  static void pack_input(const MatmulFisher& f, int64_t n, int64_t column, int64_t t0, int64_t t1,
                         S* panel) {
    const In* sample = static_cast<const In*>(f.input) + f.samples[n] * f.input_stride[0];
    const int64_t valid = std::min<int64_t>(C, f.I - column);
    if (f.patches) {
      PatchColumn columns[C];
      for (int64_t c = 0; c < valid; ++c) columns[c] = patch_column(*f.patches, column + c);
      for (int64_t t = t0; t < t1; t += kStrip) {
        const PatchPosition at(*f.patches, t);
        pack_columns<C>(valid, t, std::min(t1, t + kStrip), panel + (t - t0) * C,
                        [&](int64_t c, int64_t a, int64_t b, S* dst) {
                          gather_patches(*f.patches, sample, columns[c], at, b - a, dst);
                        });
      }
    } else {
      pack_matrix<C>(sample + column * f.input_stride[2], f.input_stride[1], f.input_stride[2],
                     valid, t0, t1, panel);
    }
    if (f.flat_power == 2)
      for (int64_t i = 0; i < (t1 - t0) * C; ++i) panel[i] *= panel[i];
  }

  // Adds a finished c_n to the group tiles.
  static void fold_groups(const MatmulFisher& f, int64_t n, typename Simd<S>::Vec (&c)[R][2],
                          S* tiles) {
    for (int64_t g = 0; g < f.G; ++g) {
      const S w = weight(f, g, n);
      if (w == S(0)) continue;
      if (f.fisher) fold<S, true>(c, w, tiles + 2 * g * kTile);
      if (f.gradient) fold<S, false>(c, w, tiles + (2 * g + 1) * kTile);
    }
  }

  static void flush_groups(const MatmulFisher& f, int64_t row0, int64_t column, const S* tiles) {
    for (int64_t g = 0; g < f.G; ++g) {
      if (f.fisher)
        flush(tiles + 2 * g * kTile, row0, column, f.O, f.I,
              static_cast<S*>(f.fisher) + g * f.group_stride);
      if (f.gradient)
        flush(tiles + (2 * g + 1) * kTile, row0, column, f.O, f.I,
              static_cast<S*>(f.gradient) + g * f.group_stride);
    }
  }

  static void accumulate(const MatmulFisher& f, const MatmulPlan& plan, int64_t n0, int64_t n1,
                         const void* packed, void* scratch, int64_t begin, int64_t end) {
    S* panel = static_cast<S*>(scratch);
    S* tiles = panel + std::min(kPanelRows, plan.chunk * f.T) * C;
    S* partial = tiles + 2 * f.G * kTile;
    const int64_t per_block = (plan.row_tiles + plan.row_blocks - 1) / plan.row_blocks;
    int64_t packed_column = -1;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t column = unit / plan.row_blocks * C, first = unit % plan.row_blocks * per_block;
      const int64_t last = std::min(plan.row_tiles, first + per_block);
      if (f.T > kPanelRows) {
        long_block(f, n0, packed, column, first, last, panel, tiles, partial);
        continue;
      }
      if (column != packed_column) {
        for (int64_t n = n0; n < n1; ++n)
          pack_input(f, n, column, 0, f.T, panel + (n - n0) * f.T * C);
        packed_column = column;
      }
      const S* grads = static_cast<const S*>(packed);
      for (int64_t tile = first; tile < last; ++tile) {
        const S* g = grads + tile * plan.chunk * f.T * R;
        if (f.flat_power) {
          flat_tile(f, g, panel, n1 - n0, tile * R, column, tiles);
          continue;
        }
        std::fill_n(tiles, 2 * f.G * kTile, S(0));
        for (int64_t n = n0; n < n1; ++n) {
          typename Simd<S>::Vec c[R][2];
          multiply<S, false>(panel + (n - n0) * f.T * C, g + (n - n0) * f.T * R, f.T, c, nullptr);
          fold_groups(f, n, c, tiles);
        }
        flush_groups(f, tile * R, column, tiles);
      }
    }
  }

  // T = 1: the samples of the chunk are the positions of one product.
  static void flat_tile(const MatmulFisher& f, const S* g, const S* panel, int64_t samples,
                        int64_t row0, int64_t column, S* tile) {
    typename Simd<S>::Vec c[R][2];
    multiply<S, false>(panel, g, samples, c, nullptr);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < 2; ++v) store(tile + r * C + v * Simd<S>::lanes, c[r][v]);
    S* out =
        static_cast<S*>(f.flat_power == 2 ? f.fisher : f.gradient) + f.flat_group * f.group_stride;
    flush(tile, row0, column, f.O, f.I, out);
  }

  // One sample with more positions than a panel holds: c_n waits in `partial` between strips.
  static void long_block(const MatmulFisher& f, int64_t n, const void* packed, int64_t column,
                         int64_t first, int64_t last, S* panel, S* tiles, S* partial) {
    const S* grads = static_cast<const S*>(packed);
    for (int64_t t0 = 0; t0 < f.T; t0 += kPanelRows) {
      const int64_t rows = std::min(kPanelRows, f.T - t0);
      pack_input(f, n, column, t0, t0 + rows, panel);
      for (int64_t tile = first; tile < last; ++tile) {
        const S* g = grads + (tile * f.T + t0) * R;
        S* held = partial + tile * kTile;
        typename Simd<S>::Vec c[R][2];
        if (t0 == 0) {
          multiply<S, false>(panel, g, rows, c, nullptr);
        } else {
          multiply<S, true>(panel, g, rows, c, held);
        }
        if (t0 + rows == f.T) {
          std::fill_n(tiles, 2 * f.G * kTile, S(0));
          fold_groups(f, n, c, tiles);
          flush_groups(f, tile * R, column, tiles);
        } else {
          for (int r = 0; r < R; ++r)
            for (int v = 0; v < 2; ++v) store(held + r * C + v * Simd<S>::lanes, c[r][v]);
        }
      }
    }
  }

  // Depthwise and other narrow groups: gather one column, then a dot product per row.
  static void direct(const MatmulFisher& f, void* scratch, int64_t begin, int64_t end) {
    S* column = static_cast<S*>(scratch);
    S* rows = column + f.T;
    for (int64_t group = begin; group < end; ++group) {
      for (int64_t n = 0; n < f.N; ++n) {
        const In* sample = static_cast<const In*>(f.input) + f.samples[n] * f.input_stride[0] +
                           group * f.conv_input_stride;
        const In* grad = grad_of(f, n) + group * f.conv_grad_stride;
        for (int64_t o = 0; o < f.O; ++o)
          copy_widened(grad + o * f.grad_stride[2], f.grad_stride[1], f.T, rows + o * f.T);
        for (int64_t i = 0; i < f.I; ++i) {
          gather_patches(*f.patches, sample, patch_column(*f.patches, i),
                         PatchPosition(*f.patches, 0), f.T, column);
          for (int64_t o = 0; o < f.O; ++o)
            add_element(f, n, (group * f.O + o) * f.I + i, dot(rows + o * f.T, column, f.T));
        }
      }
    }
  }

  static void add_element(const MatmulFisher& f, int64_t n, int64_t at, S c) {
    for (int64_t g = 0; g < f.G; ++g) {
      const S w = weight(f, g, n);
      if (w == S(0)) continue;
      if (f.fisher) static_cast<S*>(f.fisher)[g * f.group_stride + at] += w * c * c;
      if (f.gradient) static_cast<S*>(f.gradient)[g * f.group_stride + at] += w * c;
    }
  }

  static S dot(const S* a, const S* b, int64_t n) {
    using V = typename Simd<S>::Vec;
    constexpr int L = Simd<S>::lanes;
    V sum[4] = {};
    int64_t i = 0;
    for (; i + 4 * L <= n; i += 4 * L)
      for (int k = 0; k < 4; ++k) sum[k] += load(a + i + k * L) * load(b + i + k * L);
    const V all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    S total = 0;
    for (int k = 0; k < L; ++k) total += all[k];
    for (; i < n; ++i) total += a[i] * b[i];
    return total;
  }
};
