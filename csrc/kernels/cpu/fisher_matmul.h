// Per-sample squared matrix products: F[o, i] += sum_n w_n (sum_t grad[n, t, o] input[n, t, i])^2.
//
// A register tile holds c_n while t runs; when a sample ends, its square is added to a tile of F in
// registers (few positions) or L1, and only when the chunk of samples ends does that tile go to
// memory. The operands are read from packed panels: grad as [row tile][n, t][rows] (packed once per
// chunk and shared, or by each of a few units), input as [block][n, position][columns] (packed by
// whoever owns the unit).
//
// A "column group" is what one pass over a panel yields: a block of columns of a matrix, or one tap
// of a block of channels of a convolution. There is no im2col: a tap is a list of the positions at
// which it does not fall on padding, so every input element is packed once and products with zeros
// of the padding are not computed (at 4 x 4 a 3 x 3 kernel has 1.44 times fewer, at 2 x 2 2.25
// times). Convolutions with a handful of channels do gather im2col columns, to fill the vectors.
//
// Bytes: a column group reads (rows + columns) elements a position for rows x columns products; the
// grad tile stays in L1 for all groups of a unit, the input block for all its taps. FLOP: 2 N T O
// I, as for the ordinary weight gradient, less the padding. Compute bound, but for T < 4.
//
// Included inside a namespace per instruction set, see simd.h.

constexpr int64_t kL1InputBytes = 16 * 1024;  // input of one block that is to stay in L1

template <class In>
struct MatmulKernel : MatmulPacking<In> {
  using Packing = MatmulPacking<In>;
  using Packing::add_bias, Packing::grad_of, Packing::pack_grad, Packing::pack_input;
  using Packing::C, Packing::R, Packing::weight;
  using typename Packing::S;
  static constexpr int kTile = Tile<S>::size;

  // What a range of units works on: panels, tiles, and the place in the matrix.
  struct Work {
    const ListedMatmul& f;
    const MatmulPlan& plan;
    int64_t n0, n1;               // samples of the chunk
    const int64_t* step_offsets;  // where the steps of each tap and strip begin
    const Step* steps;
    S *panel, *tiles;
    S* unfinished;  // c_n of the column groups between two strips
    S* own_grad;    // one sample's part of a row tile, where units pack grad themselves

    int64_t block0;  // first block of columns of the unit
    int64_t group0;  // first column group of this pass
    int64_t groups;  // column groups of this pass
    const S* grad;   // packed row tile
    int64_t row0;    // its first row
    // Where each column group of this pass starts in the panels, and its tap.
    const S* input[kGroupsTogether];
    int64_t tap[kGroupsTogether];

    int64_t tile_step() const { return 2 * f.G * kTile; }
    S* tile(int64_t j, int64_t g) const { return tiles + (j * f.G + g) * 2 * kTile; }

    void set_groups(int64_t first, int64_t count) {
      group0 = first, groups = count;
      for (int64_t j = 0; j < count; ++j) {
        input[j] = panel + (first + j) / plan.taps * plan.chunk * plan.positions * C;
        tap[j] = (first + j) % plan.taps;
      }
    }
    // Positions of strip s for column group j, from the start of the strip's panels unless by_taps.
    Range range(int64_t j, int64_t s) const {
      if (!plan.by_taps) return {nullptr, std::min(plan.strip, f.T - s * plan.strip)};
      const int64_t* at = step_offsets + tap[j] * plan.strips + s;
      return {steps + at[0], at[1] - at[0]};
    }
  };

  static void accumulate(const ListedMatmul& f, const MatmulPlan& plan, int64_t n0, int64_t n1,
                         const void* tap_lists, const void* packed, void* scratch, int64_t begin,
                         int64_t end) {
    S* panel = static_cast<S*>(scratch);
    S* tiles = panel + plan.unit_blocks * plan.chunk * plan.positions * C;
    const int64_t most = std::min(kGroupsTogether, plan.unit_blocks * plan.taps);
    const int64_t* offsets = static_cast<const int64_t*>(tap_lists);
    Work w{.f = f,
           .plan = plan,
           .n0 = n0,
           .n1 = n1,
           .step_offsets = offsets,
           .steps = reinterpret_cast<const Step*>(offsets + plan.taps * plan.strips + 1),
           .panel = panel,
           .tiles = tiles,
           .unfinished = tiles + most * 2 * f.G * kTile,
           .own_grad = tiles + most * (2 * f.G + 1) * kTile,
           .block0 = -1};
    const int64_t per_block = (plan.row_tiles + plan.row_blocks - 1) / plan.row_blocks;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t block0 = unit / plan.row_blocks * plan.unit_blocks;
      const int64_t blocks = std::min(plan.unit_blocks, plan.blocks - block0);
      if (block0 != w.block0) {
        for (int64_t n = n0; n < n1; ++n)
          pack_input(f, plan, n, block0, blocks, panel + (n - n0) * plan.positions * C);
        w.block0 = block0;
      }
      const int64_t first = unit % plan.row_blocks * per_block;
      const int64_t last = std::min(plan.row_tiles, first + per_block);
      for (int64_t tile = first; tile < last; ++tile) {
        w.grad = static_cast<const S*>(packed) + tile * plan.tile_step;
        w.row0 = tile * R;
        for (int64_t j = 0; j < blocks * plan.taps; j += kGroupsTogether) {
          w.set_groups(j, std::min(kGroupsTogether, blocks * plan.taps - j));
          const int64_t rows = std::min<int64_t>(R, f.O - tile * R);
          if (rows <= R / 3) {
            row_tile<R / 3>(w, tile * R, rows);
          } else if (rows <= R / 2) {
            row_tile<R / 2>(w, tile * R, rows);
          } else {
            row_tile<R>(w, tile * R, rows);
          }
        }
      }
    }
  }

  // All samples of the chunk for one row tile and some column groups; `valid` of its rows are real,
  // and `rows` of them worked on.
  template <int rows>
  static void row_tile(const Work& w, int64_t row0, int64_t valid) {
    std::fill_n(w.tiles, w.groups * w.tile_step(), S(0));
    fetch_results(w, row0, valid);
    if (w.f.flat_power) {
      flat<rows>(w);
    } else {
      for (int64_t n = w.n0; n < w.n1;) {
        const SampleRun run = next_sample_run(w.f, n, w.n1);
        if (run.group >= 0 && w.f.fisher && w.f.T <= kFewPositions &&
            (!w.f.gradient || Tile<S>::rows_with_both > 0)) {
          few_positions(w, n, run, valid);
        } else {
          for (int64_t m = n; m < run.end; ++m) many_positions<rows>(w, m);
        }
        n = run.end;
      }
    }
    if (w.f.overwrite && w.n0 == 0)
      flush_groups<true>(w, row0, valid);
    else
      flush_groups<false>(w, row0, valid);
  }

  // Samples that follow each other, belong to one group alone (-1: to several) and weigh the same.
  struct SampleRun {
    int64_t end;
    int64_t group;
    S weight;
  };

  static SampleRun next_sample_run(const ListedMatmul& f, int64_t n, int64_t end) {
    const auto owner = [&](int64_t m) {
      int64_t only = -2;
      for (int64_t g = 0; g < f.G; ++g)
        if (weight(f, g, m) != S(0)) only = only == -2 ? g : -1;
      return only;
    };
    SampleRun run{n + 1, owner(n), S(0)};
    if (run.group < 0) return run;
    run.weight = weight(f, run.group, n);
    while (run.end < end && owner(run.end) == run.group &&
           weight(f, run.group, run.end) == run.weight)
      ++run.end;
    return run;
  }

  // F in registers over samples whose input fits L1, for all column groups in turn.
  static void few_positions(const Work& w, int64_t n, const SampleRun& run, int64_t valid) {
    const int64_t a_step = w.plan.positions * C, g_step = w.f.T * R;
    const int64_t together = std::max<int64_t>(1, kL1InputBytes / (a_step * int64_t(sizeof(S))));
    for (; n < run.end; n += together) {
      const int64_t samples = std::min(together, run.end - n);
      for (int64_t j = 0; j < w.groups; ++j) {
        const S* a = w.input[j] + (n - w.n0) * a_step;
        const S* g = w.grad + (n - w.n0) * g_step;
        const Range range = w.range(j, 0);
        S* tile = w.tile(j, run.group);
        if (w.f.gradient) {
          constexpr int rows = Tile<S>::rows_with_both;
          if constexpr (rows > 0)
            for (int r = 0; r < valid; r += rows)
              sum_samples<S, rows, true>(a, a_step, g + r, g_step, samples, range, run.weight,
                                         tile + r * C, tile + kTile + r * C);
        } else {
          constexpr int rows = Tile<S>::rows_with_squares;
          for (int r = 0; r < valid; r += rows)
            sum_samples<S, rows, false>(a, a_step, g + r, g_step, samples, range, run.weight,
                                        tile + r * C, nullptr);
        }
      }
    }
  }

  // One sample's part of the row tile, from memory into L1.
  static const S* pack_own(const Work& w, int64_t n) {
    pack_grad(w.f, n, 0, w.f.T, w.row0, w.own_grad);
    if (w.block0 == 0) add_bias(w.f, n, n + 1, w.row0, w.own_grad);
    return w.own_grad;
  }

  // What pack_own is going to read next: too far apart for the processor to guess. Two column
  // groups fetch it, its first and its last line.
  static Ahead next_rows(const Work& w, int64_t n, int64_t j, int64_t s) {
    const int64_t row = w.row0 + (n + 1 < w.n1 ? 0 : R) + (j == 0 ? 0 : R - 1);
    if (j > 1 || row >= w.f.O) return {reinterpret_cast<const char*>(w.own_grad), 0};
    const In* from = grad_of(w.f, n + 1 < w.n1 ? n + 1 : w.n0) + row;
    return {reinterpret_cast<const char*>(from + s * w.plan.strip * w.f.grad_stride[1]),
            w.f.grad_stride[1] * int64_t(sizeof(In))};
  }

  // One sample; c waits in `unfinished` between strips.
  template <int rows>
  static void many_positions(const Work& w, int64_t n) {
    const S* grad = w.plan.own_grad ? pack_own(w, n) : w.grad + (n - w.n0) * w.f.T * R;
    for (int64_t s = 0; s < w.plan.strips; ++s) {
      for (int64_t j = 0; j < w.groups; ++j) {
        const S* a = w.input[j] + (n - w.n0) * w.plan.positions * C;
        const S* g = grad;
        if (!w.plan.by_taps) a += s * w.plan.strip * C, g += s * w.plan.strip * R;
        Products<S, rows> c = {};
        if (s > 0) load_tile<S, rows>(w.unfinished + j * kTile, c);
        if (w.plan.own_grad) {
          multiply<S, rows, true>(a, g, w.range(j, s), c, next_rows(w, n, j, s));
        } else {
          multiply<S, rows>(a, g, w.range(j, s), c);
        }
        if (s + 1 < w.plan.strips) {
          store_tile<S, rows>(c, w.unfinished + j * kTile);
        } else {
          fold_sample(w, n, c, j);
        }
      }
    }
  }

  // Adds a finished c_n to the tiles of its groups.
  template <int rows>
  static inline __attribute__((always_inline)) void fold_sample(const Work& w, int64_t n,
                                                                const Products<S, rows>& c,
                                                                int64_t j) {
    for (int64_t g = 0; g < w.f.G; ++g) {
      const S weight_n = weight(w.f, g, n);
      if (weight_n == S(0)) continue;
      if (w.f.fisher) fold<S, rows, true>(c, weight_n, w.tile(j, g));
      if (w.f.gradient) fold<S, rows, false>(c, weight_n, w.tile(j, g) + kTile);
    }
  }

  // T = 1: the samples of the chunk are the positions of one product of squares.
  template <int rows>
  static void flat(const Work& w) {
    const int64_t samples = w.n1 - w.n0;
    for (int64_t s = 0; s < samples; s += kStrip) {
      for (int64_t j = 0; j < w.groups; ++j) {
        S* tile = w.tile(j, w.f.flat_group) + (w.f.flat_power == 2 ? 0 : kTile);
        Products<S, rows> c;
        load_tile<S, rows>(tile, c);
        multiply<S, rows>(w.input[j] + s * C, w.grad + s * R,
                          {nullptr, std::min(kStrip, samples - s)}, c);
        store_tile<S, rows>(c, tile);
      }
    }
  }

  // Calls visit(block, first column group, column groups, destination, tiles) for each result and
  // block of columns of this pass; the destination is where the block starts in row 0.
  template <class Visit>
  static void for_results(const Work& w, const Visit& visit) {
    const ListedMatmul& f = w.f;
    for (int64_t j = 0, count; j < w.groups; j += count) {
      const int64_t block = w.block0 + (w.group0 + j) / w.plan.taps;
      count = std::min(w.plan.taps - w.tap[j], w.groups - j);
      for (int64_t g = 0; g < f.G; ++g) {
        for (int part = 0; part < 2; ++part) {
          void* result = part == 0 ? f.fisher : f.gradient;
          if (!result || (f.flat_power && (g != f.flat_group || part != 2 - f.flat_power)))
            continue;
          visit(block, j, count,
                static_cast<S*>(result) + g * f.group_stride + block * C * w.plan.taps,
                w.tile(j, g) + part * kTile);
        }
      }
    }
  }

  // Real columns of a block, or real channels.
  static int64_t width_of(const Work& w, int64_t block) {
    return std::min<int64_t>(C, (w.plan.by_taps ? w.f.I / w.plan.taps : w.f.I) - block * C);
  }

  // The results come from memory while the products are computed, not when they are added.
  static void fetch_results(const Work& w, int64_t row0, int64_t rows) {
    for_results(w, [&](int64_t block, int64_t, int64_t count, S* to, const S*) {
      const int64_t bytes = width_of(w, block) * count * int64_t(sizeof(S));
      for (int64_t r = 0; r < rows; ++r) {
        const char* row = reinterpret_cast<const char*>(to + (row0 + r) * w.f.I);
        for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(row + b, 1, 2);
      }
    });
  }

  template <bool overwrite>
  static void flush_groups(const Work& w, int64_t row0, int64_t rows) {
    for_results(w, [&](int64_t block, int64_t j, int64_t count, S* to, const S* tiles) {
      to += row0 * w.f.I;
      if (w.plan.taps == 1) {
        flush<overwrite>(tiles, rows, width_of(w, block), w.f.I, to);
      } else {
        flush_taps<overwrite>(tiles, w.tile_step(), count, rows, width_of(w, block), w.plan.taps,
                              w.f.I, to + w.tap[j]);
      }
    });
  }
};
