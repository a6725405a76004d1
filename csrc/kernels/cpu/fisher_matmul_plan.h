// How the matrix kernel cuts its work into chunks of samples and units: so that panels stay in L2,
// and so that there are units for all threads. What is summed together depends on the shapes alone,
// not on the number of threads.
//
// Included inside a namespace per instruction set, see simd.h.

constexpr int64_t kPanelBytes = 512 * 1024;     // input panels of a unit: a part of L2
constexpr int64_t kOneChunkBytes = 832 * 1024;  // larger panels that spare a second pass over F
constexpr int64_t kGroupsTogether = 12;  // column groups that share one pass over a grad tile
constexpr int64_t kUnitBlocks = 8;       // blocks of columns in a unit
constexpr int64_t kOwnGradUnits = 3;     // so few units rather copy grad from where it is
constexpr int64_t kFewPositions = 24;    // positions up to which F stays in registers

template <class In>
struct MatmulPlanner {
  using S = typename Accumulate<In>::type;
  static constexpr int R = Tile<S>::rows, C = Tile<S>::columns, kTile = Tile<S>::size;

  static MatmulPlan plan(const ListedMatmul& f, int64_t threads) {
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
        balanced(p.blocks, p.taps > 1 ? 1 : std::clamp<int64_t>(panels / sample, 1, kUnitBlocks));
    p.chunk = std::clamp<int64_t>(panels / (sample * p.unit_blocks), 1, f.sample_count);
    if (p.taps == 1 && f.sample_count * sample * p.unit_blocks <= kOneChunkBytes)
      p.chunk = f.sample_count;
    // Not enough units for the threads: narrower ones, then the rows as well. What is summed
    // together stays as it is, and so do the bits of the result.
    const auto units = [&] { return (p.blocks + p.unit_blocks - 1) / p.unit_blocks; };
    while (p.unit_blocks > 1 && units() < threads) p.unit_blocks = (p.unit_blocks + 1) / 2;
    p.row_blocks =
        units() >= 4 * threads ? 1 : std::min(p.row_tiles, threads / std::gcd(units(), threads));
    p.units = units() * p.row_blocks;
    const int64_t tiles = std::min(kGroupsTogether, p.unit_blocks * p.taps) * (2 * f.G + 1) * kTile;
    p.tap_list_bytes = p.by_taps ? (p.taps * p.strips + 1) * int64_t(sizeof(int64_t)) +
                                       p.taps * f.T * int64_t(sizeof(Step))
                                 : 0;
    p.tile_step = p.chunk * f.T * R + 16;  // off the power of two: no cache-set conflicts
    // Many rows of features, used by few units: each copies one sample's part of a tile at a time
    // into L1, unless the rows are a page apart and would fall into the same sets of the caches.
    p.own_grad = f.grad_stride[2] == 1 && f.T > kFewPositions &&
                 p.blocks <= kOwnGradUnits * kUnitBlocks &&
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
    plan.by_taps = true;
    plan.taps = taps, plan.blocks = blocks, plan.positions = positions;
  }
};
