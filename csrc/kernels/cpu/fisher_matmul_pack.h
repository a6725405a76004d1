// Packs the operands of the matrix kernel into panels: tiles of grad rows, blocks of input columns,
// and lists of the positions that each tap of a convolution reads. Grad is read once per chunk, or
// once per unit where units pack it themselves; input once per unit. Bound by these reads, from
// memory or L2.
//
// The rows of grad pass through here, so here the bias is added as well: its c_n is a sum over
// them.
//
// Included inside a namespace per instruction set, see simd.h.

template <class In>
struct MatmulPacking {
  using S = typename Accumulate<In>::type;
  static constexpr int R = Tile<S>::rows, C = Tile<S>::columns;

  static const In* grad_of(const ListedMatmul& f, int64_t n) {
    return static_cast<const In*>(f.grad) + f.samples[n] * f.grad_stride[0];
  }

  static const In* input_of(const ListedMatmul& f, int64_t n) {
    return static_cast<const In*>(f.input) + f.samples[n] * f.input_stride[0];
  }

  static S weight(const ListedMatmul& f, int64_t g, int64_t n) {
    return static_cast<const S*>(f.weights)[g * f.N + f.samples[n]];
  }

  static void list_taps(const ListedMatmul& f, const MatmulPlan& plan, void* tap_lists) {
    int64_t* begin = static_cast<int64_t*>(tap_lists);
    list_steps<C, R>(*f.patches, plan.strip, plan.strips, begin,
                     reinterpret_cast<Step*>(begin + plan.taps * plan.strips + 1));
  }

  static void pack(const ListedMatmul& f, const MatmulPlan& plan, int64_t n0, int64_t n1,
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

  static void pack_grad(const ListedMatmul& f, int64_t n, int64_t t, int64_t positions, int64_t o,
                        S* panel) {
    if (f.flat_power) return pack_flat(f, n, o, panel);
    pack_matrix<R>(grad_of(f, n) + t * f.grad_stride[1] + o * f.grad_stride[2], f.grad_stride[1],
                   f.grad_stride[2], std::min<int64_t>(R, f.O - o), positions, panel);
  }

  // The only position of a sample, raised to its power and weighed.
  static void pack_flat(const ListedMatmul& f, int64_t n, int64_t o, S* panel) {
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
  static void add_bias(const ListedMatmul& f, int64_t n0, int64_t n1, int64_t row0,
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
  static void pack_input(const ListedMatmul& f, const MatmulPlan& plan, int64_t n, int64_t block0,
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
      if (plan.by_taps) {
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

  static void pack_patches(const ListedMatmul& f, const In* sample, int64_t column, S* panel) {
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
};
