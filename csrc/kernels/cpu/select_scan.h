// The kernels of select: a vector of scores at a time is compared with the threshold or with the
// ends of the bracket. Every element is read once; few need a second look, those that are selected
// or inside the bracket. Bound by memory bandwidth.

// Calls visit(scores as float or double, first, size) for the elements [begin, end) of a chunk;
// half types are widened a block at a time.
template <class In, class Visit>
inline void for_blocks(const ScoreChunk& chunk, int64_t begin, int64_t end, const Visit& visit) {
  const In* data = static_cast<const In*>(chunk.data);
  if constexpr (sizeof(In) > 2) {
    if (begin < end) visit(data + begin, begin, end - begin);
  } else {
    constexpr int64_t kBlock = 1024;
    alignas(64) float values[kBlock];
    for (int64_t first = begin; first < end; first += kBlock) {
      const int64_t size = std::min(kBlock, end - first);
      for (int64_t i = 0; i < size; ++i) values[i] = widen(data[first + i]);
      visit(static_cast<const float*>(values), first, size);
    }
  }
}

// Calls visit(vector, first) for vectors of scores; the last is filled up with NaN, which compares
// false with everything.
template <class S, class Visit>
inline void for_vectors(const S* scores, int64_t begin, int64_t size, const Visit& visit) {
  constexpr int64_t lanes = Simd<S>::lanes, ahead = 4096 / sizeof(S);
  int64_t i = begin;
  for (; i + lanes <= size; i += lanes) {
    __builtin_prefetch(scores + i + ahead);  // the processor's own prefetching ends with each page
    visit(load(scores + i), i);
  }
  if (i == size) return;
  S last[lanes];
  for (int64_t l = 0; l < lanes; ++l)
    last[l] = i + l < size ? scores[i + l] : std::numeric_limits<S>::quiet_NaN();
  visit(load(last), i);
}

template <class S>
class Scanner {
 public:
  Scanner(Bracket bracket, void* inside, int64_t room)
      : low_(from_key<S>(bracket.low)),
        high_(from_key<S>(bracket.high)),
        one_key_(bracket.low == bracket.high),
        inside_(static_cast<S*>(inside)),
        room_(room) {}

  // Most vectors lie on one side of the bracket: two comparisons see that none of their scores is
  // in it or NaN. Four places are read at a time, which keeps more cache misses in flight than one.
  void add(const S* scores, int64_t size) {
    const Vec low = Vec{} + low_, high = Vec{} + high_;
    Mask above{}, at_high{}, at_low{}, unordered{};
    const auto look = [&](Vec x, int64_t i) {
      const Mask over = x > high;
      above -= over;
      if (!bits(~(over | (x < low)))) return;
      at_high -= x == high;
      at_low -= x == low;
      unordered -= x != x;
      collect(scores + i, bits((x > low) & (x < high)));
    };
    constexpr int64_t lanes = Simd<S>::lanes;
    const int64_t quarter = size / (4 * lanes) * lanes;
    for (int64_t i = 0; i < quarter; i += lanes)
      for (int64_t first = i; first < 4 * quarter; first += quarter)
        look(load(scores + first), first);
    for_vectors(scores, 4 * quarter, size, look);
    counts_.above += sum(above);
    counts_.at_high += sum(at_high);
    counts_.at_low += one_key_ ? 0 : sum(at_low);
    counts_.nan += sum(unordered) - (-size & (lanes - 1));
  }

  const ScanCounts& counts() const { return counts_; }

 private:
  using Vec = typename Simd<S>::Vec;
  using Mask = decltype(Vec{} > Vec{});

  void collect(const S* scores, uint32_t set) {
    for (; set; set &= set - 1, ++counts_.inside)
      if (counts_.inside < room_) inside_[counts_.inside] = scores[__builtin_ctz(set)];
  }

  static int64_t sum(Mask lanes) {
    int64_t total = 0;
    for (int l = 0; l < Simd<S>::lanes; ++l) total += lanes[l];
    return total;
  }

  const S low_, high_;
  const bool one_key_;
  S* const inside_;
  const int64_t room_;
  ScanCounts counts_;
};

template <class In>
struct Select {
  using S = typename Accumulate<In>::type;

  static ScanCounts scan(const ScoreChunk& chunk, Bracket bracket, void* inside, int64_t room) {
    Scanner<S> scanner(bracket, inside, room);
    for_blocks<In>(chunk, 0, chunk.size,
                   [&](const S* scores, int64_t, int64_t size) { scanner.add(scores, size); });
    return scanner.counts();
  }

  // Gathers first and compares then: a branch on a score would wait for its cache miss.
  static ScanCounts sample(const ScoreChunk& chunk, int64_t stride, Bracket bracket, void* inside,
                           int64_t room) {
    constexpr int64_t kBlock = 256;
    constexpr uint64_t golden = 0x9e3779b97f4a7c15;  // its multiples are spread evenly, period-free
    const In* data = static_cast<const In*>(chunk.data);
    Scanner<S> scanner(bracket, inside, room);
    S values[kBlock];
    int64_t count = 0;
    for (int64_t stretch = chunk.position / stride;; ++stretch) {
      const uint64_t place = (uint64_t(stretch) * golden >> 32) * uint64_t(stride) >> 32;
      const int64_t at = stretch * stride + int64_t(place) - chunk.position;
      if (at >= chunk.size) break;
      if (at < 0) continue;
      values[count++] = widen(data[at]);
      if (count == kBlock) scanner.add(values, std::exchange(count, 0));
    }
    scanner.add(values, count);
    return scanner.counts();
  }

  static void histogram(const ScoreChunk& chunk, uint64_t prefix, int left, int shift,
                        int64_t* counts) {
    const In* data = static_cast<const In*>(chunk.data);
    const bool all = left == 8 * int(sizeof(S));
    const Key<S> wanted = all ? 0 : Key<S>(prefix) >> left;
    const Key<S> digit = (Key<S>(1) << (left - shift)) - 1;
    for (int64_t i = 0; i < chunk.size; ++i) {
      const Key<S> key = to_key<S>(widen(data[i]));
      if (all || key >> left == wanted) ++counts[key >> shift & digit];
    }
  }

  static int64_t find(const ScoreChunk& chunk, uint64_t key, int64_t rank) {
    const S wanted = from_key<S>(key);
    for (int64_t i = 0; i < chunk.size; ++i)
      if (widen(static_cast<const In*>(chunk.data)[i]) == wanted && rank-- == 0) return i;
    return chunk.size;
  }

  static void mask(const ScoreChunk& chunk, uint64_t threshold, int64_t cut, bool* mask) {
    const S limit = from_key<S>(threshold);
    const int64_t ties = std::clamp<int64_t>(cut - chunk.position, 0, chunk.size);
    for_blocks<In>(chunk, 0, ties, [&](const S* scores, int64_t first, int64_t size) {
      for (int64_t i = 0; i < size; ++i) mask[first + i] = scores[i] >= limit;
    });
    for_blocks<In>(chunk, ties, chunk.size, [&](const S* scores, int64_t first, int64_t size) {
      for (int64_t i = 0; i < size; ++i) mask[first + i] = scores[i] > limit;
    });
  }

  static int64_t positions(const ScoreChunk& chunk, uint64_t threshold, int64_t cut,
                           int32_t* positions) {
    using Vec = typename Simd<S>::Vec;
    const Vec limit = Vec{} + from_key<S>(threshold);
    const int64_t ties = std::clamp<int64_t>(cut - chunk.position, 0, chunk.size);
    int64_t count = 0;
    const auto append = [&](int64_t at, uint32_t set) {
      if (set) count += append_positions(int32_t(at), set, positions + count);
    };
    for_blocks<In>(chunk, 0, ties, [&](const S* scores, int64_t first, int64_t size) {
      for_vectors(scores, 0, size, [&](Vec x, int64_t i) { append(first + i, bits(x >= limit)); });
    });
    for_blocks<In>(chunk, ties, chunk.size, [&](const S* scores, int64_t first, int64_t size) {
      for_vectors(scores, 0, size, [&](Vec x, int64_t i) { append(first + i, bits(x > limit)); });
    });
    return count;
  }
};
