// The kernels of select. A word of 64 scores at a time is compared with the ends of the bracket, or
// with the threshold. Every score is read once; those in groups that the bracket does not decide,
// which are few, once more. Bound by memory bandwidth.
//
// Included inside a namespace per instruction set, see simd.h.

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

// The bits of a comparison of 64 or 32 scores.
template <int64_t size = kWordElements, class S, class Compare>
inline uint64_t compare_word(const S* scores, const Compare& compare) {
  uint64_t result = 0;
  for (int64_t i = 0; i < size; i += Simd<S>::lanes)
    result |= uint64_t(compare(load(scores + i))) << i;
  return result;
}

template <class S>
class Scanner {
 public:
  Scanner(Bracket bracket, const ScanResults& results)
      : low_(Vec{} + from_key<S>(bracket.low)),
        high_(Vec{} + from_key<S>(bracket.high)),
        results_(results) {}

  // Scores from word `first` of the mask on. They are read in four places in turn, which keeps more
  // cache misses in flight than one.
  void add(const S* scores, int64_t size, int64_t first) {
    const int64_t words = size / kWord, quarter = words / 4;
    for (int64_t i = 0; i < quarter; ++i) {
      for (int64_t w = i; w < 4 * quarter; w += quarter) {
        prefetch(scores + w * kWord);
        add_word(scores + w * kWord, first + w);
      }
    }
    for (int64_t w = 4 * quarter; w < words; ++w) add_word(scores + w * kWord, first + w);
    if (const int64_t left = size % kWord; left > 0) {
      S last[kWord];  // filled up with NaN, which compares false with everything
      std::fill(std::copy_n(scores + words * kWord, left, last), last + kWord,
                std::numeric_limits<S>::quiet_NaN());
      add_word(last, first + words);
      counts_.nan -= kWord - left;
    }
  }

  const ScanCounts& counts() const { return counts_; }

 private:
  using Vec = typename Simd<S>::Vec;
  static constexpr int64_t kWord = kWordElements;

  // The processor's own prefetching stops at the end of each page.
  static void prefetch(const S* scores) {
    constexpr int64_t ahead = 2048 / sizeof(S), line = 64 / sizeof(S);
    for (int64_t i = 0; i < kWord; i += line) __builtin_prefetch(scores + ahead + i);
  }

  void add_word(const S* scores, int64_t w) {
    const uint64_t over = compare_word(scores, [&](Vec x) { return above(x, high_); });
    const uint64_t under = compare_word(scores, [&](Vec x) { return above(low_, x); });
    counts_.above += __builtin_popcountll(over);
    if (results_.mask) results_.mask[w] = over;
    if (const uint64_t open = ~(over | under); open) add_undecided(scores, w, open);
  }

  // Scores equal to the upper end come first: where there are any, there are many.
  void add_undecided(const S* scores, int64_t w, uint64_t open) {
    if (results_.undecided)
      results_.undecided[w / 32] |= uint64_t((open << 32 ? 1 : 0) | (open >> 32 ? 2 : 0))
                                    << w % 32 * 2;
    const uint64_t at_high = compare_word(scores, [&](Vec x) { return equal(x, high_); });
    counts_.at_high += __builtin_popcountll(at_high);
    if (open == at_high) return;
    const uint64_t at_low = compare_word(scores, [&](Vec x) { return equal(x, low_); }) & ~at_high;
    const uint64_t nan = ~compare_word(scores, [&](Vec x) { return equal(x, x); });
    counts_.at_low += __builtin_popcountll(at_low);
    counts_.nan += __builtin_popcountll(nan);
    for (uint64_t set = open & ~(at_high | at_low | nan); set; set &= set - 1, ++counts_.inside)
      if (counts_.inside < results_.room)
        static_cast<S*>(results_.inside)[counts_.inside] = scores[__builtin_ctzll(set)];
  }

  const Vec low_, high_;
  const ScanResults results_;
  ScanCounts counts_;
};

template <class In>
struct Select {
  using S = typename Accumulate<In>::type;

  static ScanCounts scan(const ScoreChunk& chunk, Bracket bracket, const ScanResults& results) {
    Scanner<S> scanner(bracket, results);
    for_blocks<In>(chunk, 0, chunk.size, [&](const S* scores, int64_t first, int64_t size) {
      scanner.add(scores, size, first / kWordElements);
    });
    return scanner.counts();
  }

  // Asks for all cache lines of a block before it waits for the first.
  static ScanCounts sample(const ScoreChunk& chunk, int64_t stride, Bracket bracket,
                           const ScanResults& results) {
    constexpr int64_t kBlock = 256;
    constexpr uint64_t golden = 0x9e3779b97f4a7c15;  // its multiples are spread evenly, period-free
    const In* data = static_cast<const In*>(chunk.data);
    Scanner<S> scanner(bracket, results);
    S values[kBlock];
    int32_t places[kBlock];
    int64_t at = 0;
    for (int64_t stretch = chunk.position / stride; at < chunk.size;) {
      int64_t count = 0;
      while (count < kBlock) {
        const uint64_t place = (uint64_t(stretch) * golden >> 32) * uint64_t(stride) >> 32;
        at = stretch++ * stride + int64_t(place) - chunk.position;
        if (at >= chunk.size) break;
        if (at < 0) continue;
        __builtin_prefetch(data + at);
        places[count++] = int32_t(at);
      }
      for (int64_t i = 0; i < count; ++i) values[i] = widen(data[places[i]]);
      scanner.add(values, count, 0);
    }
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

  static void decide(const ScoreChunk& chunk, uint64_t threshold, int64_t end,
                     const uint64_t* undecided, uint64_t* mask) {
    constexpr int64_t kGroup = SelectKernels::kGroup;
    const In* data = static_cast<const In*>(chunk.data);
    const auto limit = typename Simd<S>::Vec{} + from_key<S>(threshold);
    const int64_t groups = (chunk.size + kGroup - 1) / kGroup;
    constexpr int64_t kAhead = 4 * 64;  // groups: these are far from each other
    for (int64_t first = 0; first < groups; first += 64) {
      if (first + kAhead < groups)
        for (uint64_t set = undecided[(first + kAhead) / 64]; set; set &= set - 1) {
          const In* const group = data + (first + kAhead + __builtin_ctzll(set)) * kGroup;
          __builtin_prefetch(group);
          __builtin_prefetch(group + kGroup - 1);
        }
      for (uint64_t set = undecided[first / 64]; set; set &= set - 1) {
        const int64_t g = first + __builtin_ctzll(set), begin = g * kGroup;
        const int64_t size = std::min(kGroup, chunk.size - begin);
        const S* scores;
        S copy[kGroup];
        if constexpr (std::is_same_v<S, In>) scores = data + begin;
        if (!std::is_same_v<S, In> || size < kGroup) {
          for (int64_t i = 0; i < kGroup; ++i)
            copy[i] = i < size ? widen(data[begin + i]) : std::numeric_limits<S>::quiet_NaN();
          scores = copy;
        }
        const int64_t ties = std::clamp<int64_t>(end - chunk.position - begin, 0, kGroup);
        uint64_t bits = compare_word<kGroup>(scores, [&](auto x) { return above(x, limit); });
        if (ties > 0)
          bits |= compare_word<kGroup>(scores, [&](auto x) { return equal(x, limit); }) &
                  ((uint64_t(1) << ties) - 1);
        const int64_t shift = g % 2 * kGroup;
        mask[g / 2] = (mask[g / 2] & ~(uint64_t(0xffffffff) << shift)) | bits << shift;
      }
    }
  }
};

int64_t count_ones(const uint64_t* words, int64_t size) {
  int64_t total = 0;
  for (int64_t i = 0; i < size; ++i) total += __builtin_popcountll(words[i]);
  return total;
}
