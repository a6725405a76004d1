// Exact top-k by counting: of the k-th largest key, eleven bits a pass, the highest first.
//
// A block reads up to 32K scores, eight a thread and 16 bytes at a time where they are aligned, and
// counts the next digit of those that begin like the k-th largest in shared memory; what it counted
// is added to global counters, and one block finds the digit. Once few enough scores are left to
// fit into a buffer, the pass that counts them keeps them there, and the next ones read only that.
// A last reading writes the mask, a byte a thread, and counts ties; only chunks with ties that are
// selected are read again. Bound by memory: three reads of all scores, unless the buffer is too
// small for those that begin like the threshold. Then it is one more for float32, and up to seven
// in all for float64.
//
// A value that repeats, such as exact zeros, must not make threads wait for one counter: every
// thread keeps the count of its own most frequent digit in a register.
#include "select.h"

#include "block.cuh"
#include "element.cuh"
#include "tensor_batch.cuh"

namespace fastforget::cuda {
namespace {

constexpr int kSelectThreads = 256;
constexpr int kRow = 8 * kSelectThreads;   // elements that a block reads at once
constexpr int64_t kSelectChunk = 1 << 15;  // elements of a block, where there are many
constexpr int kDigit = 11, kDigits = 1 << kDigit;
constexpr int kStaged = 2 * kRow;
constexpr int64_t kFewKept = 1 << 16;

using Counter = unsigned long long;  // what atomicAdd takes

// A score's bits as an unsigned integer that sorts like it, -0 on +0.
template <class E>
struct KeyOf {
  using type = uint16_t;
};
template <>
struct KeyOf<float> {
  using type = uint32_t;
};
template <>
struct KeyOf<double> {
  using type = uint64_t;
};
template <class E>
using Key = typename KeyOf<E>::type;

__device__ __forceinline__ uint32_t bits_of(float v) { return __float_as_uint(v); }
__device__ __forceinline__ uint64_t bits_of(double v) { return uint64_t(__double_as_longlong(v)); }
__device__ __forceinline__ uint16_t bits_of(Bf16 v) { return v.bits; }
__device__ __forceinline__ uint16_t bits_of(F16 v) { return v.bits; }

template <class K>
constexpr K kSign = K(K(1) << (8 * sizeof(K) - 1));

template <class E>
__device__ __forceinline__ Key<E> key_of(E score) {
  using K = Key<E>;
  K bits = bits_of(score);
  if (bits == kSign<K>) bits = 0;
  return K(bits ^ (bits & kSign<K> ? K(~K(0)) : kSign<K>));
}

// The bits of the score with this key.
template <class K>
__device__ __forceinline__ K bits_of_key(K key) {
  return K(key ^ (key & kSign<K> ? kSign<K> : K(~K(0))));
}

template <class E>
__device__ __forceinline__ bool is_nan(E score) {
  const auto value = wide(score);
  return value != value;
}

template <class E>
constexpr uint64_t kNan = 0x7fc00000;
template <>
constexpr uint64_t kNan<double> = 0x7ff8000000000000;
template <>
constexpr uint64_t kNan<Bf16> = 0x7fc0;
template <>
constexpr uint64_t kNan<F16> = 0x7e00;

// What the passes know so far; zeros before the first.
struct Found {
  uint64_t prefix;  // the highest bits of the threshold's key
  int64_t rank;     // of the threshold among the keys that begin so, from 1
  int64_t left;     // how many those are
  Counter nan;
  Counter kept;  // keys in the buffer
  int use_kept;  // whether it holds all that are left
};

// A thread's counts of one digit: those that it sees most often it counts in a register (the
// majority vote of Boyer and Moore), others in shared memory.
class Tally {
 public:
  __device__ explicit Tally(unsigned* counts) : counts_(counts) {}
  __device__ __forceinline__ void add(int digit) {
    if (digit == frequent_) {
      ++count_, ++lead_;
    } else if (lead_ > 0) {
      --lead_;
      atomicAdd(counts_ + digit, 1u);
    } else {
      flush();
      frequent_ = digit, count_ = lead_ = 1;
    }
  }
  __device__ __forceinline__ void flush() {
    if (count_ > 0) atomicAdd(counts_ + frequent_, count_);
  }

 private:
  unsigned* counts_;
  int frequent_ = -1, lead_ = 0;
  unsigned count_ = 0;
};

__device__ __forceinline__ void clear(unsigned* counts) {
  for (int d = int(threadIdx.x); d < kDigits; d += kSelectThreads) counts[d] = 0;
  __syncthreads();
}

__device__ __forceinline__ void add_to(Counter* all, const unsigned* counts, int digits = kDigits) {
  __syncthreads();
  for (int d = int(threadIdx.x); d < digits; d += kSelectThreads)
    if (counts[d] > 0) atomicAdd(all + d, Counter(counts[d]));
}

// Whether a key begins with the bits [left, ...) of the prefix.
template <class K>
__device__ __forceinline__ bool begins(K key, uint64_t prefix, int left) {
  return K(key ^ K(prefix)) >> left == 0;
}

template <class K>
__device__ __forceinline__ int digit_of(K key, int shift) {
  return int(key >> shift) & (kDigits - 1);
}

// The first pass: no prefix yet, and NaN is looked for.
template <class E>
__global__ void __launch_bounds__(kSelectThreads)
    count_first(const __grid_constant__ TensorBatch batch, Found* found, Counter* all, int shift) {
  __shared__ unsigned counts[kDigits];
  const Piece piece = piece_of(batch, blockIdx.x);
  const E* const scores = static_cast<const E*>(batch.pointers[piece.tensor]) + piece.offset;
  const bool vectors = on_16_bytes(scores);
  clear(counts);
  Tally tally(counts);
  unsigned nan = 0;
  for (int64_t at = 8 * int64_t(threadIdx.x); at < piece.size; at += kRow) {
    const int64_t there = piece.size - at;
    const Eight<E> eight = load_eight(scores + at, there, vectors);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (i < there) {
        nan += is_nan(eight.values[i]);
        tally.add(digit_of(key_of(eight.values[i]), shift));
      }
  }
  tally.flush();
  if (nan > 0) atomicAdd(&found->nan, Counter(nan));
  add_to(all, counts);
}

// A later pass over all scores, bits [shift, left) of the keys that begin with the prefix. Where
// they fit into the buffer and another pass follows, it keeps them.
template <class E>
__global__ void __launch_bounds__(kSelectThreads)
    count_next(const __grid_constant__ TensorBatch batch, Found* found, Counter* all, int left,
               int shift, Key<E>* kept, int64_t room) {
  using K = Key<E>;
  __shared__ unsigned counts[kDigits];
  __shared__ K staged[kStaged];
  __shared__ unsigned used;
  __shared__ Counter to;
  if (found->use_kept) return;
  const bool keep = shift > 0 && found->left <= room;
  const uint64_t prefix = found->prefix;
  const Piece piece = piece_of(batch, blockIdx.x);
  const E* const scores = static_cast<const E*>(batch.pointers[piece.tensor]) + piece.offset;
  const bool vectors = on_16_bytes(scores);
  if (threadIdx.x == 0) used = 0;
  clear(counts);
  Tally tally(counts);
  // Every thread calls; what is staged goes to places of its own in the buffer, where it is more
  // than `most`.
  const auto unload = [&](unsigned most) {
    __syncthreads();
    const unsigned count = used;
    __syncthreads();
    if (count <= most) return;
    if (threadIdx.x == 0) to = atomicAdd(&found->kept, Counter(count)), used = 0;
    __syncthreads();
    for (unsigned i = threadIdx.x; i < count; i += kSelectThreads) kept[to + i] = staged[i];
    __syncthreads();
  };
  for (int64_t row = 0; row < piece.size; row += kRow) {
    const int64_t at = row + 8 * int64_t(threadIdx.x), there = piece.size - at;
    const Eight<E> eight = load_eight(scores + at, there, vectors);
    unsigned same = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const K key = key_of(eight.values[i]);
      if (i < there && begins(key, prefix, left)) {
        tally.add(digit_of(key, shift) & ((1 << (left - shift)) - 1));
        same |= 1u << i;
      }
    }
    if (!keep) continue;
    if (same) {
      unsigned place = atomicAdd(&used, unsigned(__popc(same)));
#pragma unroll
      for (int i = 0; i < 8; ++i)
        if (same >> i & 1) staged[place++] = key_of(eight.values[i]);
    }
    unload(kStaged - kRow);
  }
  if (keep) unload(0);
  tally.flush();
  add_to(all, counts);
}

// A later pass over the buffer, where it holds all that are left.
template <class K>
__global__ void __launch_bounds__(kSelectThreads)
    count_kept(const Found* found, Counter* all, int left, int shift, const K* kept) {
  __shared__ unsigned counts[kDigits];
  const int64_t first = blockIdx.x * kSelectChunk;
  if (!found->use_kept || first >= int64_t(found->kept)) return;
  const int64_t end = min(int64_t(found->kept), first + kSelectChunk);
  const uint64_t prefix = found->prefix;
  clear(counts);
  Tally tally(counts);
  for (int64_t at = first + threadIdx.x; at < end; at += kSelectThreads)
    if (const K key = kept[at]; begins(key, prefix, left))
      tally.add(digit_of(key, shift) & ((1 << (left - shift)) - 1));
  tally.flush();
  add_to(all, counts);
}

// The digit of the threshold: one block, a thread for every few digits, from the highest down.
__global__ void __launch_bounds__(kSelectThreads)
    find_digit(Found* found, const Counter* all, int64_t k, bool first, bool last, int shift,
               int64_t room) {
  constexpr int kMine = kDigits / kSelectThreads;
  const int highest = kDigits - 1 - int(threadIdx.x) * kMine;
  int64_t mine = 0, total;
  for (int d = 0; d < kMine; ++d) mine += int64_t(all[highest - d]);
  const int64_t rank = first ? k : found->rank;
  const bool kept = !first && !last && found->left <= room;  // as count_next decided
  int64_t above = block_scan<kSelectThreads>(mine, total);
  if (rank <= above || rank > above + mine) return;  // all but one thread
  int digit = highest;
  while (rank > above + int64_t(all[digit])) above += int64_t(all[digit--]);
  found->prefix |= uint64_t(digit) << shift;
  found->rank = rank - above;
  found->left = int64_t(all[digit]);
  if (kept) found->use_kept = 1;
}

// The mask of the keys above the threshold's, and how many equal it, chunk by chunk.
template <class E>
__global__ void __launch_bounds__(kSelectThreads)
    mark_above(const __grid_constant__ TensorBatch batch, const Found* found, uint64_t* mask,
               int64_t* ties) {
  const Piece piece = piece_of(batch, blockIdx.x);
  const E* const scores = static_cast<const E*>(batch.pointers[piece.tensor]) + piece.offset;
  const bool vectors = on_16_bytes(scores);
  uint8_t* const bytes =
      reinterpret_cast<uint8_t*>(mask + batch.tag[piece.tensor]) + piece.offset / 8;
  const Key<E> threshold = Key<E>(found->prefix);
  const int64_t end = (piece.size + 63) / 64 * 64;  // the last word is written to its end
  int equal = 0, total;
  for (int64_t at = 8 * int64_t(threadIdx.x); at < end; at += kRow) {
    const int64_t there = piece.size - at;
    const Eight<E> eight = load_eight(scores + at, there, vectors);
    unsigned byte = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const Key<E> key = key_of(eight.values[i]);
      byte |= unsigned(i < there && key > threshold) << i;
      equal += i < there && key == threshold;
    }
    bytes[at / 8] = uint8_t(byte);
  }
  block_scan<kSelectThreads>(equal, total);
  if (threadIdx.x == 0) ties[batch.chunks_before + blockIdx.x] = total;
}

// How many ties lie before each chunk, and the threshold: one block.
template <class E>
__global__ void __launch_bounds__(kSelectThreads)
    scan_ties(const Found* found, int64_t* ties, int64_t chunks, Key<E>* threshold) {
  scan_in_place<kSelectThreads>(ties, chunks);
  if (threadIdx.x == 0)
    *threshold = found->nan > 0 ? Key<E>(kNan<E>) : bits_of_key(Key<E>(found->prefix));
}

// Adds the first ties of the list to the mask. The one chunk that holds the last of them looks at
// rows one after another, others need no order.
template <class E>
__global__ void __launch_bounds__(kSelectThreads)
    mark_ties(const __grid_constant__ TensorBatch batch, const Found* found, const int64_t* ties,
              uint64_t* mask) {
  const int64_t chunk = batch.chunks_before + blockIdx.x;
  const int64_t count = ties[chunk + 1] - ties[chunk], wanted = found->rank - ties[chunk];
  if (count == 0 || wanted <= 0) return;
  const bool all = count <= wanted;
  const Piece piece = piece_of(batch, blockIdx.x);
  const E* const scores = static_cast<const E*>(batch.pointers[piece.tensor]) + piece.offset;
  const bool vectors = on_16_bytes(scores);
  uint8_t* const bytes =
      reinterpret_cast<uint8_t*>(mask + batch.tag[piece.tensor]) + piece.offset / 8;
  const Key<E> threshold = Key<E>(found->prefix);
  int64_t before = 0;
  for (int64_t row = 0; row < piece.size && before < wanted; row += kRow) {
    const int64_t at = row + 8 * int64_t(threadIdx.x), there = piece.size - at;
    const Eight<E> eight = load_eight(scores + at, there, vectors);
    unsigned byte = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i)
      byte |= unsigned(i < there && key_of(eight.values[i]) == threshold) << i;
    if (!all) {
      int in_row;
      int64_t mine = wanted - before - block_scan<kSelectThreads>(__popc(byte), in_row);
      before += in_row;
      unsigned taken = 0;
      for (; byte && mine > 0; --mine, byte &= byte - 1) taken |= byte & -byte;
      byte = taken;
    }
    if (byte) bytes[at / 8] |= uint8_t(byte);
  }
}

// One digit of the keys of each tensor, for those that decide about scores on other devices as
// well.
template <class E>
__global__ void __launch_bounds__(kSelectThreads)
    count_digit(const __grid_constant__ TensorBatch batch, Counter* all, uint64_t prefix, int left,
                int shift) {
  __shared__ unsigned counts[kDigits];
  const Piece piece = piece_of(batch, blockIdx.x);
  const E* const scores = static_cast<const E*>(batch.pointers[piece.tensor]) + piece.offset;
  const bool vectors = on_16_bytes(scores);
  const bool every = left == 8 * int(sizeof(key_of(wide(E()))));
  const int digits = 1 << (left - shift);
  clear(counts);
  Tally tally(counts);
  for (int64_t at = 8 * int64_t(threadIdx.x); at < piece.size; at += kRow) {
    const int64_t there = piece.size - at;
    const Eight<E> eight = load_eight(scores + at, there, vectors);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const auto key = key_of(wide(eight.values[i]));
      if (i < there && (every || key >> left == prefix))
        tally.add(int(key >> shift) & (digits - 1));
    }
  }
  tally.flush();
  add_to(all + batch.tag[piece.tensor] * digits, counts, digits);
}

// Where the parts of the scratch memory begin.
struct Parts {
  explicit Parts(const ScoreTensors& s) {
    for (int64_t l = 0; l < s.L; ++l) elements += s.sizes[l];
    // Of little there is a shorter chunk for every multiprocessor.
    chunk = elements < (1 << 23) ? kSelectChunk / 4 : kSelectChunk;
    for (int64_t l = 0; l < s.L; ++l) chunks += (s.sizes[l] + chunk - 1) / chunk;
    const int key_bytes = s.dtype == DType::f64 ? 8 : s.dtype == DType::f32 ? 4 : 2;
    passes = (8 * key_bytes + kDigit - 1) / kDigit;
    // Two passes are enough for 16 bits, none of which another follows.
    room = passes > 2 ? std::min(elements, std::max(elements / 16, kFewKept)) : 0;
    counts = 256;
    ties = counts + int64_t(passes) * kDigits * 8;
    kept = (ties + (chunks + 1) * 8 + 255) / 256 * 256;
    bytes = kept + room * key_bytes;
  }
  int passes;
  int64_t elements = 0, chunk, chunks = 0, room;
  int64_t counts, ties, kept, bytes;
};

template <class E>
cudaError_t select_typed(const ScoreTensors& s, int64_t k, uint64_t* mask, void* threshold,
                         char* scratch, cudaStream_t stream) {
  using K = Key<E>;
  const Parts parts(s);
  static_assert(sizeof(Found) <= 256);
  Found* const found = reinterpret_cast<Found*>(scratch);
  Counter* counts = reinterpret_cast<Counter*>(scratch + parts.counts);
  int64_t* const ties = reinterpret_cast<int64_t*>(scratch + parts.ties);
  K* const kept = reinterpret_cast<K*>(scratch + parts.kept);
  const auto over = [&](const auto& launch) {
    int64_t word = 0;
    return in_batches(
        s.L, 1, parts.chunk, [&](int64_t l) { return s.sizes[l]; },
        [&](int64_t) { return s.dtype; },
        [&](int64_t l, const void** pointers, int64_t& tag) {
          pointers[0] = s.scores[l];
          tag = word;
          word += (s.sizes[l] + 63) / 64;
        },
        launch);
  };
  const auto blocks = [](const TensorBatch& batch) { return dim3(unsigned(batch.chunks())); };
  cudaError_t error = cudaMemsetAsync(scratch, 0, size_t(parts.ties), stream);
  if (error != cudaSuccess) return error;
  for (int left = 8 * int(sizeof(K)); left > 0; counts += kDigits) {
    const bool first = left == 8 * int(sizeof(K));
    const int shift = std::max(left - kDigit, 0);
    error = over([&](const TensorBatch& batch, DType) {
      if (first)
        return launch(count_first<E>, blocks(batch), kSelectThreads, 0, stream, batch, found,
                      counts, shift);
      return launch(count_next<E>, blocks(batch), kSelectThreads, 0, stream, batch, found, counts,
                    left, shift, kept, parts.room);
    });
    if (error != cudaSuccess) return error;
    if (!first && left + kDigit < 8 * int(sizeof(K))) {  // the first to be kept by the second pass
      const int64_t full = (parts.room + kSelectChunk - 1) / kSelectChunk;
      error = launch(count_kept<K>, dim3(unsigned(full)), kSelectThreads, 0, stream, found, counts,
                     left, shift, kept);
      if (error != cudaSuccess) return error;
    }
    error = launch(find_digit, dim3(1), kSelectThreads, 0, stream, found, counts, k, first,
                   shift == 0, shift, parts.room);
    if (error != cudaSuccess) return error;
    left = shift;
  }
  error = over([&](const TensorBatch& batch, DType) {
    return launch(mark_above<E>, blocks(batch), kSelectThreads, 0, stream, batch, found, mask,
                  ties);
  });
  if (error != cudaSuccess) return error;
  error = launch(scan_ties<E>, dim3(1), kSelectThreads, 0, stream, found, ties, parts.chunks,
                 static_cast<K*>(threshold));
  if (error != cudaSuccess) return error;
  return over([&](const TensorBatch& batch, DType) {
    return launch(mark_ties<E>, blocks(batch), kSelectThreads, 0, stream, batch, found, ties, mask);
  });
}

}  // namespace

int64_t select_bytes(const ScoreTensors& s) { return Parts(s).bytes; }

cudaError_t select(const ScoreTensors& s, int64_t k, uint64_t* mask, void* threshold, void* scratch,
                   cudaStream_t stream) {
  return with_element(s.dtype, [&](auto e) {
    return select_typed<decltype(e)>(s, k, mask, threshold, static_cast<char*>(scratch), stream);
  });
}

cudaError_t select_histogram(const ScoreTensors& s, uint64_t prefix, int left, int shift,
                             int64_t* counts, cudaStream_t stream) {
  return with_element(s.dtype, [&](auto e) {
    return in_batches(
        s.L, 1, kSelectChunk, [&](int64_t l) { return s.sizes[l]; },
        [&](int64_t) { return s.dtype; },
        [&](int64_t l, const void** pointers, int64_t& tag) {
          pointers[0] = s.scores[l];
          tag = l;
        },
        [&](const TensorBatch& batch, DType) {
          return launch(count_digit<decltype(e)>, dim3(unsigned(batch.chunks())), kSelectThreads, 0,
                        stream, batch, reinterpret_cast<Counter*>(counts), prefix, left, shift);
        });
  });
}

}  // namespace fastforget::cuda
