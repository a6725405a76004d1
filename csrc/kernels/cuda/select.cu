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
#include "select.h"

#include "../bit_mask.h"
#include "block.cuh"
#include "digit_counts.cuh"
#include "score_keys.cuh"
#include "tensor_batch.cuh"

namespace fastforget::cuda {
namespace {

constexpr int kStaged = 2 * kRow;
constexpr int64_t kFewKept = 1 << 16;

// What the passes know so far; zeros before the first.
struct SearchState {
  uint64_t prefix;  // the highest bits of the threshold's key
  int64_t rank;     // of the threshold among the keys that begin so, from 1
  int64_t left;     // how many those are
  Counter nan;
  Counter kept;  // keys in the buffer
  int use_kept;  // whether it holds all that are left
};

// Whether a key and the prefix agree from bit `left` up.
template <class K>
__device__ __forceinline__ bool has_prefix(K key, uint64_t prefix, int left) {
  return K(key ^ K(prefix)) >> left == 0;
}

template <class K>
__device__ __forceinline__ int digit_of(K key, int shift) {
  return int(key >> shift) & (kDigits - 1);
}

// The first pass: no prefix yet, and NaN is looked for.
template <class E>
__global__ void __launch_bounds__(kSelectThreads)
    count_first(const __grid_constant__ TensorBatch batch, SearchState* state, Counter* all,
                int shift) {
  SHARED(unsigned, counts, [kDigits]);
  const Piece piece = piece_of(batch, blockIdx.x);
  const E* const scores = static_cast<const E*>(batch.pointers[piece.tensor]) + piece.offset;
  const bool vectors = on_16_bytes(scores);
  clear_counts(counts);
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
  if (nan > 0) atomicAdd(&state->nan, Counter(nan));
  add_counts(all, counts);
}

// A later pass over all scores, bits [shift, left) of the keys that begin with the prefix. Where
// they fit into the buffer and another pass follows, it keeps them.
template <class E>
__global__ void __launch_bounds__(kSelectThreads)
    count_next(const __grid_constant__ TensorBatch batch, SearchState* state, Counter* all,
               int left, int shift, Key<E>* kept, int64_t room) {
  using K = Key<E>;
  SHARED(unsigned, counts, [kDigits]);
  SHARED(K, staged, [kStaged]);
  SHARED(unsigned, used);
  SHARED(Counter, to);
  if (state->use_kept) return;
  const bool keep = shift > 0 && state->left <= room;
  const uint64_t prefix = state->prefix;
  const Piece piece = piece_of(batch, blockIdx.x);
  const E* const scores = static_cast<const E*>(batch.pointers[piece.tensor]) + piece.offset;
  const bool vectors = on_16_bytes(scores);
  if (threadIdx.x == 0) used = 0;
  clear_counts(counts);
  Tally tally(counts);
  // Moves the staged keys to the buffer where they are more than `most`. Every thread calls.
  const auto move_staged = [&](unsigned most) {
    __syncthreads();
    const unsigned count = used;
    __syncthreads();
    if (count <= most) return;
    if (threadIdx.x == 0) to = atomicAdd(&state->kept, Counter(count)), used = 0;
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
      if (i < there && has_prefix(key, prefix, left)) {
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
    move_staged(kStaged - kRow);
  }
  if (keep) move_staged(0);
  tally.flush();
  add_counts(all, counts);
}

// A later pass over the buffer, where it holds all that are left.
template <class K>
__global__ void __launch_bounds__(kSelectThreads)
    count_kept(const SearchState* state, Counter* all, int left, int shift, const K* kept) {
  SHARED(unsigned, counts, [kDigits]);
  const int64_t first = blockIdx.x * kSelectChunk;
  if (!state->use_kept || first >= int64_t(state->kept)) return;
  const int64_t end = min(int64_t(state->kept), first + kSelectChunk);
  const uint64_t prefix = state->prefix;
  clear_counts(counts);
  Tally tally(counts);
  for (int64_t at = first + threadIdx.x; at < end; at += kSelectThreads)
    if (const K key = kept[at]; has_prefix(key, prefix, left))
      tally.add(digit_of(key, shift) & ((1 << (left - shift)) - 1));
  tally.flush();
  add_counts(all, counts);
}

// The digit of the threshold: one block, a thread for every few digits, from the highest down.
__global__ void __launch_bounds__(kSelectThreads)
    find_digit(SearchState* state, const Counter* all, int64_t k, bool first, bool last, int shift,
               int64_t room) {
  constexpr int kMine = kDigits / kSelectThreads;
  const int highest = kDigits - 1 - int(threadIdx.x) * kMine;
  int64_t mine = 0, total;
  for (int d = 0; d < kMine; ++d) mine += int64_t(all[highest - d]);
  const int64_t rank = first ? k : state->rank;
  const bool kept = !first && !last && state->left <= room;  // as count_next decided
  int64_t above = block_scan<kSelectThreads>(mine, total);
  if (rank <= above || rank > above + mine) return;  // all but one thread
  int digit = highest;
  while (rank > above + int64_t(all[digit])) above += int64_t(all[digit--]);
  state->prefix |= uint64_t(digit) << shift;
  state->rank = rank - above;
  state->left = int64_t(all[digit]);
  if (kept) state->use_kept = 1;
}

// The mask of the keys above the threshold's, and how many equal it, chunk by chunk.
template <class E>
__global__ void __launch_bounds__(kSelectThreads)
    mark_above(const __grid_constant__ TensorBatch batch, const SearchState* state, uint64_t* mask,
               int64_t* ties) {
  const Piece piece = piece_of(batch, blockIdx.x);
  const E* const scores = static_cast<const E*>(batch.pointers[piece.tensor]) + piece.offset;
  const bool vectors = on_16_bytes(scores);
  uint8_t* const bytes =
      reinterpret_cast<uint8_t*>(mask + batch.tag[piece.tensor]) + piece.offset / 8;
  const Key<E> threshold = Key<E>(state->prefix);
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
    scan_ties(const SearchState* state, int64_t* ties, int64_t chunks, Key<E>* threshold) {
  scan_in_place<kSelectThreads>(ties, chunks);
  if (threadIdx.x == 0)
    *threshold = state->nan > 0 ? Key<E>(kNanBits<E>) : bits_of_key(Key<E>(state->prefix));
}

// Adds the first ties of the list to the mask. The one chunk that holds the last of them looks at
// rows one after another, others need no order.
template <class E>
__global__ void __launch_bounds__(kSelectThreads)
    mark_ties(const __grid_constant__ TensorBatch batch, const SearchState* state,
              const int64_t* ties, uint64_t* mask) {
  const int64_t chunk = batch.chunks_before + blockIdx.x;
  const int64_t count = ties[chunk + 1] - ties[chunk], wanted = state->rank - ties[chunk];
  if (count == 0 || wanted <= 0) return;
  const bool all = count <= wanted;
  const Piece piece = piece_of(batch, blockIdx.x);
  const E* const scores = static_cast<const E*>(batch.pointers[piece.tensor]) + piece.offset;
  const bool vectors = on_16_bytes(scores);
  uint8_t* const bytes =
      reinterpret_cast<uint8_t*>(mask + batch.tag[piece.tensor]) + piece.offset / 8;
  const Key<E> threshold = Key<E>(state->prefix);
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

// Where the parts of the scratch memory begin, in bytes.
struct ScratchLayout {
  explicit ScratchLayout(const ScoreTensors& s) {
    for (int64_t l = 0; l < s.L; ++l) elements += s.sizes[l];
    // Few elements: shorter chunks, so that every multiprocessor has one.
    chunk = elements < (1 << 23) ? kSelectChunk / 4 : kSelectChunk;
    for (int64_t l = 0; l < s.L; ++l) chunks += (s.sizes[l] + chunk - 1) / chunk;
    const int64_t key_bytes = element_size(s.dtype);
    passes = (8 * int(key_bytes) + kDigit - 1) / kDigit;
    // 16 bits take two passes; after the second none is left to read a buffer.
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
  const ScratchLayout layout(s);
  static_assert(sizeof(SearchState) <= 256);
  SearchState* const state = reinterpret_cast<SearchState*>(scratch);
  Counter* counts = reinterpret_cast<Counter*>(scratch + layout.counts);
  int64_t* const ties = reinterpret_cast<int64_t*>(scratch + layout.ties);
  K* const kept = reinterpret_cast<K*>(scratch + layout.kept);
  const auto in_score_batches = [&](const auto& launch) {
    int64_t word = 0;
    return in_batches(
        s.L, 1, layout.chunk, [&](int64_t l) { return s.sizes[l]; },
        [&](int64_t) { return s.dtype; },
        [&](int64_t l, const void** pointers, int64_t& tag) {
          pointers[0] = s.scores[l];
          tag = word;
          word += mask_words(s.sizes[l]);
        },
        launch);
  };
  const auto blocks = [](const TensorBatch& batch) { return dim3(unsigned(batch.chunks())); };
  cudaError_t error = cudaMemsetAsync(scratch, 0, size_t(layout.ties), stream);
  if (error != cudaSuccess) return error;
  for (int left = 8 * int(sizeof(K)); left > 0; counts += kDigits) {
    const bool first = left == 8 * int(sizeof(K));
    const int shift = std::max(left - kDigit, 0);
    error = in_score_batches([&](const TensorBatch& batch, DType) {
      if (first)
        return launch(count_first<E>, blocks(batch), kSelectThreads, 0, stream, batch, state,
                      counts, shift);
      return launch(count_next<E>, blocks(batch), kSelectThreads, 0, stream, batch, state, counts,
                    left, shift, kept, layout.room);
    });
    if (error != cudaSuccess) return error;
    if (!first && left + kDigit < 8 * int(sizeof(K))) {  // the first to be kept by the second pass
      const int64_t full = (layout.room + kSelectChunk - 1) / kSelectChunk;
      error = launch(count_kept<K>, dim3(unsigned(full)), kSelectThreads, 0, stream, state, counts,
                     left, shift, kept);
      if (error != cudaSuccess) return error;
    }
    error = launch(find_digit, dim3(1), kSelectThreads, 0, stream, state, counts, k, first,
                   shift == 0, shift, layout.room);
    if (error != cudaSuccess) return error;
    left = shift;
  }
  error = in_score_batches([&](const TensorBatch& batch, DType) {
    return launch(mark_above<E>, blocks(batch), kSelectThreads, 0, stream, batch, state, mask,
                  ties);
  });
  if (error != cudaSuccess) return error;
  error = launch(scan_ties<E>, dim3(1), kSelectThreads, 0, stream, state, ties, layout.chunks,
                 static_cast<K*>(threshold));
  if (error != cudaSuccess) return error;
  return in_score_batches([&](const TensorBatch& batch, DType) {
    return launch(mark_ties<E>, blocks(batch), kSelectThreads, 0, stream, batch, state, ties, mask);
  });
}

}  // namespace

int64_t select_bytes(const ScoreTensors& s) { return ScratchLayout(s).bytes; }

cudaError_t select(const ScoreTensors& s, int64_t k, uint64_t* mask, void* threshold, void* scratch,
                   cudaStream_t stream) {
  return with_element(s.dtype, [&](auto e) {
    return select_typed<decltype(e)>(s, k, mask, threshold, static_cast<char*>(scratch), stream);
  });
}

}  // namespace fastforget::cuda
