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

constexpr int64_t kPanelBytes = 512 * 1024;  // input panels of a unit: a part of L2
constexpr int64_t kAllBytes = 832 * 1024;    // those that spare a second pass over the results
constexpr int64_t kFirstBytes = 16 * 1024;   // input of one block that is to stay in L1
constexpr int64_t kGroups = 12;              // column groups that share one pass over a grad tile
constexpr int64_t kBlocks = 8;               // blocks of columns in a unit
constexpr int64_t kOwners = 3;               // units that rather copy grad from where it is
constexpr int64_t kFew = 24;                 // positions up to which F stays in registers

template <class In>
struct MatmulKernel {
  using S = typename Accumulate<In>::type;
  static constexpr int R = Tile<S>::rows, C = Tile<S>::columns, kTile = Tile<S>::size;

  static MatmulPlan plan(const MatmulFisher& f, int64_t threads) {
    MatmulPlan p{};
    const auto blocks_of = [](int64_t columns) { return (columns + C - 1) / C; };
    p.taps = 1, p.positions = f.T, p.blocks = blocks_of(f.I);
    if (f.patches && !f.flat_power) choose_taps(*f.patches, f.T, p);
    p.row_tiles = (f.O + R - 1) / R;
    // Strips of positions keep both panels in L1 while the column groups take turns.
    p.strip = f.T > 2 * kStrip ? kStrip : f.T;
    p.strips = (f.T + p.strip - 1) / p.strip;
    const int64_t sample = p.positions * C * int64_t(sizeof(S));
    // Convolutions have more units to read the packed grad, and that is to stay in L2 as well.
    const int64_t panels = p.taps > 1 ? kPanelBytes / 2 : kPanelBytes;
    p.unit_blocks =
        balanced(p.blocks, p.taps > 1 ? 1 : std::clamp<int64_t>(panels / sample, 1, kBlocks));
    p.chunk = std::clamp<int64_t>(panels / (sample * p.unit_blocks), 1, f.N);
    if (p.taps == 1 && f.N * sample * p.unit_blocks <= kAllBytes) p.chunk = f.N;
    // Not enough units for the threads: narrower ones, then the rows as well. What is summed
    // together stays as it is, and so do the bits of the result.
    const auto units = [&] { return (p.blocks + p.unit_blocks - 1) / p.unit_blocks; };
    while (p.unit_blocks > 1 && units() < threads) p.unit_blocks = (p.unit_blocks + 1) / 2;
    p.row_blocks =
        units() >= 4 * threads ? 1 : std::min(p.row_tiles, threads / std::gcd(units(), threads));
    p.units = units() * p.row_blocks;
    const int64_t tiles = std::min(kGroups, p.unit_blocks * p.taps) * (2 * f.G + 1) * kTile;
    p.list_bytes = p.listed ? (p.taps * p.strips + 1) * int64_t(sizeof(int64_t)) +
                                  p.taps * f.T * int64_t(sizeof(Step))
                            : 0;
    p.tile_step = p.chunk * f.T * R + 16;  // off the power of two: no cache-set conflicts
    // Many rows of features, used by few units: each copies one sample's part of a tile at a time
    // into L1, unless the rows are a page apart and would fall into the same sets of the caches.
    p.own_grad = f.grad_stride[2] == 1 && f.T > kFew && p.blocks <= kOwners * kBlocks &&
                 f.grad_stride[1] * int64_t(sizeof(In)) % 4096 != 0;
    p.packed_bytes = p.own_grad ? 0 : p.row_tiles * p.tile_step * int64_t(sizeof(S));
    p.scratch_bytes =
        (p.unit_blocks * p.chunk * p.positions * C + tiles + (p.own_grad ? f.T * R + 16 : 0)) *
        int64_t(sizeof(S));
    return p;
  }

  // The largest part that `parts` of at most `most` need.
  static int64_t balanced(int64_t all, int64_t most) {
    const int64_t parts = (all + most - 1) / most;
    return (all + parts - 1) / parts;
  }

  // Channels as columns, tap by tap, unless im2col columns fill the vectors much better.
  static void choose_taps(const Patches& p, int64_t T, MatmulPlan& plan) {
    const int64_t taps = p.kernel[0] * p.kernel[1] * p.kernel[2];
    const int64_t blocks = (p.channels + C - 1) / C;
    const int64_t positions = p.size[0] * p.size[1] * p.size[2];
    if (2 * blocks * taps > 3 * plan.blocks) return;
    if (std::max(positions * C, T * R) > std::numeric_limits<int32_t>::max()) return;
    // One tap that skips positions would pack what it does not read.
    if (taps == 1 && positions > T) return;
    plan.listed = true;
    plan.taps = taps, plan.blocks = blocks, plan.positions = positions;
  }

  static const In* grad_of(const MatmulFisher& f, int64_t n) {
    return static_cast<const In*>(f.grad) + f.samples[n] * f.grad_stride[0];
  }

  static const In* input_of(const MatmulFisher& f, int64_t n) {
    return static_cast<const In*>(f.input) + f.samples[n] * f.input_stride[0];
  }

  static S weight(const MatmulFisher& f, int64_t g, int64_t n) {
    return static_cast<const S*>(f.weights)[g * f.batch + f.samples[n]];
  }

  static void list(const MatmulFisher& f, const MatmulPlan& plan, void* lists) {
    int64_t* begin = static_cast<int64_t*>(lists);
    list_steps<C, R>(*f.patches, plan.strip, plan.strips, begin,
                     reinterpret_cast<Step*>(begin + plan.taps * plan.strips + 1));
  }

  static void pack(const MatmulFisher& f, const MatmulPlan& plan, int64_t n0, int64_t n1,
                   void* packed, int64_t begin, int64_t end) {
    // Rows of features: a few positions at a time for all tiles, so that a line is fetched once.
    const bool features_last = f.grad_stride[2] == 1;
    const int64_t samples = features_last ? std::max<int64_t>(1, 8 / f.T) : 1;
    const int64_t positions = features_last ? 8 : f.T;
    for (int64_t n = n0; n < n1; n += samples)
      for (int64_t t = 0; t < f.T; t += positions)
        for (int64_t tile = begin; tile < end; ++tile)
          for (int64_t m = n; m < std::min(n1, n + samples); ++m)
            pack_grad(f, m, t, std::min(positions, f.T - t), tile * R,
                      static_cast<S*>(packed) + tile * plan.tile_step + ((m - n0) * f.T + t) * R);
    for (int64_t tile = begin; tile < end; ++tile)
      add_bias(f, n0, n1, tile * R, static_cast<const S*>(packed) + tile * plan.tile_step);
  }

  static void pack_grad(const MatmulFisher& f, int64_t n, int64_t t, int64_t positions, int64_t o,
                        S* panel) {
    if (f.flat_power) return pack_flat(f, n, o, panel);
    pack_matrix<R>(grad_of(f, n) + t * f.grad_stride[1] + o * f.grad_stride[2], f.grad_stride[1],
                   f.grad_stride[2], std::min<int64_t>(R, f.O - o), positions, panel);
  }

  // The only position of a sample, raised to its power and weighed.
  static void pack_flat(const MatmulFisher& f, int64_t n, int64_t o, S* panel) {
    constexpr int lanes = Simd<S>::lanes, padded = (R + lanes - 1) / lanes * lanes;
    const In* source = grad_of(f, n) + o * f.grad_stride[2];
    const S w = weight(f, f.flat_group, n);
    const auto term = [&](auto x) { return f.flat_power == 2 ? w * x * x : w * x; };
    if (f.grad_stride[2] == 1 && o + padded <= f.O) {
      // Whole vectors: what stands behind the tile is the next sample's place, or to spare.
      for (int r = 0; r < padded; r += lanes) store(panel + r, term(load_widened<S>(source + r)));
    } else {
      for (int r = 0; r < R; ++r)
        panel[r] = o + r < f.O ? term(widen(source[r * f.grad_stride[2]])) : S(0);
    }
  }

  // The rows of grad are at hand in the packed tile: their sums over the positions are the bias's.
  static void add_bias(const MatmulFisher& f, int64_t n0, int64_t n1, int64_t row0,
                       const S* panel) {
    if (!f.bias_fisher && !f.bias_gradient) return;
    const int64_t rows = std::min<int64_t>(R, f.O - row0);
    S sums[R];
    const auto add = [&](void* result, int64_t g, auto term) {
      if (!result) return;
      S* to = static_cast<S*>(result) + g * f.bias_stride + row0;
      for (int64_t r = 0; r < rows; ++r) to[r] += term(sums[r]);
    };
    if (f.flat_power) {  // squared and weighed already
      sum_rows<R>(panel, n1 - n0, sums);
      add(f.flat_power == 2 ? f.bias_fisher : f.bias_gradient, f.flat_group, [](S s) { return s; });
      return;
    }
    for (int64_t n = n0; n < n1; ++n, panel += f.T * R) {
      sum_rows<R>(panel, f.T, sums);
      for (int64_t g = 0; g < f.G; ++g) {
        const S w = weight(f, g, n);
        if (w == S(0)) continue;
        add(f.bias_fisher, g, [&](S s) { return w * s * s; });
        add(f.bias_gradient, g, [&](S s) { return w * s; });
      }
    }
  }

  // One sample's part of the panels of some blocks of columns.
  static void pack_input(const MatmulFisher& f, const MatmulPlan& plan, int64_t n, int64_t block0,
                         int64_t blocks, S* panel) {
    const In* sample = input_of(f, n);
    const int64_t step = plan.chunk * plan.positions * C;
    if (!f.patches) {
      // A few positions at a time for all blocks, so that rows of features are read as they lie.
      const int64_t together = f.input_stride[2] == 1 ? 8 : f.T;
      for (int64_t t = 0; t < f.T; t += together)
        for (int64_t b = 0; b < blocks; ++b)
          pack_matrix<C>(sample + t * f.input_stride[1] + (block0 + b) * C * f.input_stride[2],
                         f.input_stride[1], f.input_stride[2],
                         std::min<int64_t>(C, f.I - (block0 + b) * C), std::min(together, f.T - t),
                         panel + b * step + t * C);
    }
    for (int64_t b = 0; b < blocks; ++b, panel += step) {
      const int64_t column = (block0 + b) * C;
      if (plan.listed) {
        const Patches& p = *f.patches;
        pack_channels<C>(p, sample + column * p.in_stride[0], p.in_stride[0],
                         std::min<int64_t>(C, p.channels - column), panel);
      } else if (f.patches) {
        pack_patches(f, sample, column, panel);
      }
      if (f.flat_power == 2)
        for (int64_t i = 0; i < f.T * C; ++i) panel[i] *= panel[i];
    }
  }

  static void pack_patches(const MatmulFisher& f, const In* sample, int64_t column, S* panel) {
    const int64_t valid = std::min<int64_t>(C, f.I - column);
    PatchColumn columns[C];
    for (int64_t c = 0; c < valid; ++c) columns[c] = patch_column(*f.patches, column + c);
    for (int64_t t = 0; t < f.T; t += kStrip) {
      const PatchPosition at(*f.patches, t);
      pack_columns<C>(valid, t, std::min(f.T, t + kStrip), panel + t * C,
                      [&](int64_t c, int64_t a, int64_t b, S* dst) {
                        gather_patches(*f.patches, sample, columns[c], at, b - a, dst);
                      });
    }
  }

  // What a range of units works on: panels, tiles, and the place in the matrix.
  struct Work {
    const MatmulFisher& f;
    const MatmulPlan& plan;
    int64_t n0, n1;
    const int64_t* begin;  // of the lists of steps
    const Step* steps;
    S *panel, *tiles, *held, *own;
    int64_t block0;  // first block of columns of the unit
    int64_t group0;  // first column group of this pass
    int64_t groups;  // column groups of this pass
    const S* grad;   // packed row tile
    int64_t row0;    // its first row

    int64_t tile_step() const { return 2 * f.G * kTile; }
    S* tile(int64_t j, int64_t g) const { return tiles + (j * f.G + g) * 2 * kTile; }
    // Where column group j starts in the panels, and its tap.
    const S* input[kGroups];
    int64_t tap[kGroups];

    void take(int64_t first, int64_t count) {
      group0 = first, groups = count;
      for (int64_t j = 0; j < count; ++j) {
        input[j] = panel + (first + j) / plan.taps * plan.chunk * plan.positions * C;
        tap[j] = (first + j) % plan.taps;
      }
    }
    // Positions of strip s for column group j, from the start of the strip's panels unless listed.
    Range range(int64_t j, int64_t s) const {
      if (!plan.listed) return {nullptr, std::min(plan.strip, f.T - s * plan.strip)};
      const int64_t* at = begin + tap[j] * plan.strips + s;
      return {steps + at[0], at[1] - at[0]};
    }
  };

  static void accumulate(const MatmulFisher& f, const MatmulPlan& plan, int64_t n0, int64_t n1,
                         const void* lists, const void* packed, void* scratch, int64_t begin,
                         int64_t end) {
    S* panel = static_cast<S*>(scratch);
    S* tiles = panel + plan.unit_blocks * plan.chunk * plan.positions * C;
    const int64_t most = std::min(kGroups, plan.unit_blocks * plan.taps);
    const int64_t* offsets = static_cast<const int64_t*>(lists);
    Work w{f,
           plan,
           n0,
           n1,
           offsets,
           reinterpret_cast<const Step*>(offsets + plan.taps * plan.strips + 1),
           panel,
           tiles,
           tiles + most * 2 * f.G * kTile,
           tiles + most * (2 * f.G + 1) * kTile,
           -1,
           0,
           0};
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
        for (int64_t j = 0; j < blocks * plan.taps; j += kGroups) {
          w.take(j, std::min(kGroups, blocks * plan.taps - j));
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
        const Run run = next_run(w.f, n, w.n1);
        if (run.group >= 0 && w.f.fisher && w.f.T <= kFew &&
            (!w.f.gradient || Tile<S>::rows_with_both > 0)) {
          few_positions(w, n, run, valid);
        } else {
          for (int64_t m = n; m < run.end; ++m) many_positions<rows>(w, m);
        }
        n = run.end;
      }
    }
    w.f.overwrite&& w.n0 == 0 ? flush_groups<true>(w, row0, valid)
                              : flush_groups<false>(w, row0, valid);
  }

  // Samples that follow each other, belong to one group alone (-1: to several) and weigh the same.
  struct Run {
    int64_t end;
    int64_t group;
    S weight;
  };

  static Run next_run(const MatmulFisher& f, int64_t n, int64_t end) {
    const auto owner = [&](int64_t m) {
      int64_t only = -2;
      for (int64_t g = 0; g < f.G; ++g)
        if (weight(f, g, m) != S(0)) only = only == -2 ? g : -1;
      return only;
    };
    Run run{n + 1, owner(n), S(0)};
    if (run.group < 0) return run;
    run.weight = weight(f, run.group, n);
    while (run.end < end && owner(run.end) == run.group &&
           weight(f, run.group, run.end) == run.weight)
      ++run.end;
    return run;
  }

  // F in registers over samples whose input fits L1, for all column groups in turn.
  static void few_positions(const Work& w, int64_t n, const Run& run, int64_t valid) {
    const int64_t a_step = w.plan.positions * C, g_step = w.f.T * R;
    const int64_t together = std::max<int64_t>(1, kFirstBytes / (a_step * int64_t(sizeof(S))));
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
    pack_grad(w.f, n, 0, w.f.T, w.row0, w.own);
    if (w.block0 == 0) add_bias(w.f, n, n + 1, w.row0, w.own);
    return w.own;
  }

  // What pack_own is going to read next: too far apart for the processor to guess. Two column
  // groups fetch it, its first and its last line.
  static Ahead next_rows(const Work& w, int64_t n, int64_t j, int64_t s) {
    const int64_t row = w.row0 + (n + 1 < w.n1 ? 0 : R) + (j == 0 ? 0 : R - 1);
    if (j > 1 || row >= w.f.O) return {reinterpret_cast<const char*>(w.own), 0};
    const In* from = grad_of(w.f, n + 1 < w.n1 ? n + 1 : w.n0) + row;
    return {reinterpret_cast<const char*>(from + s * w.plan.strip * w.f.grad_stride[1]),
            w.f.grad_stride[1] * int64_t(sizeof(In))};
  }

  // One sample; c waits in `held` between strips.
  template <int rows>
  static void many_positions(const Work& w, int64_t n) {
    const S* grad = w.plan.own_grad ? pack_own(w, n) : w.grad + (n - w.n0) * w.f.T * R;
    for (int64_t s = 0; s < w.plan.strips; ++s) {
      for (int64_t j = 0; j < w.groups; ++j) {
        const S* a = w.input[j] + (n - w.n0) * w.plan.positions * C;
        const S* g = grad;
        if (!w.plan.listed) a += s * w.plan.strip * C, g += s * w.plan.strip * R;
        Products<S, rows> c = {};
        if (s > 0) load_tile<S, rows>(w.held + j * kTile, c);
        if (w.plan.own_grad) {
          multiply<S, rows, true>(a, g, w.range(j, s), c, next_rows(w, n, j, s));
        } else {
          multiply<S, rows>(a, g, w.range(j, s), c);
        }
        if (s + 1 < w.plan.strips) {
          store_tile<S, rows>(c, w.held + j * kTile);
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
    const MatmulFisher& f = w.f;
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
    return std::min<int64_t>(C, (w.plan.listed ? w.f.I / w.plan.taps : w.f.I) - block * C);
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
