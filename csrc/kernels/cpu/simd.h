// Portable SIMD: GCC/Clang vector types of FF_VECTOR_BYTES, and loads that widen half types.
//
// Included inside a namespace named after the instruction set and after isa_begin.h, so that each
// copy of these inline functions belongs to exactly one instruction set.

template <class S>
struct Simd {
  typedef S Vec __attribute__((vector_size(FF_VECTOR_BYTES), aligned(FF_VECTOR_BYTES)));
  typedef S Unaligned __attribute__((vector_size(FF_VECTOR_BYTES), aligned(sizeof(S))));
  static constexpr int lanes = FF_VECTOR_BYTES / sizeof(S);
};

template <class S>
inline typename Simd<S>::Vec load(const S* p) {
  return *reinterpret_cast<const typename Simd<S>::Unaligned*>(p);
}

template <class S>
inline void store(S* p, typename Simd<S>::Vec v) {
  *reinterpret_cast<typename Simd<S>::Unaligned*>(p) = v;
}

// The type sums are kept in.
template <class In>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};

template <class S, class In>
inline typename Simd<S>::Vec load_widened(const In* p) {
  if constexpr (std::is_same_v<S, In>) {
    return load(p);
  } else {
    typename Simd<S>::Vec v;
    for (int k = 0; k < Simd<S>::lanes; ++k) v[k] = widen(p[k]);
    return v;
  }
}

// Sum of the lanes, by halves.
template <class S>
inline S total(typename Simd<S>::Vec v) {
  S lanes[Simd<S>::lanes];
  store(lanes, v);
#pragma GCC unroll 8
  for (int half = Simd<S>::lanes / 2; half > 0; half /= 2)
    for (int k = 0; k < half; ++k) lanes[k] += lanes[k + half];
  return lanes[0];
}

// dst[0..n) = widen(src[0], src[stride], …)
template <class S, class In>
inline void copy_widened(const In* src, int64_t stride, int64_t n, S* dst) {
  if (stride == 1) {
    if constexpr (std::is_same_v<S, In>) {
      std::memcpy(dst, src, size_t(n) * sizeof(S));
    } else {
      for (int64_t i = 0; i < n; ++i) dst[i] = widen(src[i]);
    }
  } else {
    for (int64_t i = 0; i < n; ++i) dst[i] = widen(src[i * stride]);
  }
}

// dst[t * width + c] = src[c * ld + t] for t < n, c < width.
template <int width, class S>
inline void transpose(const S* src, int64_t ld, int64_t n, S* dst) {
  int64_t t = 0;
  if constexpr (sizeof(S) == 4 && width % 4 == 0) {
    typedef S V __attribute__((vector_size(16)));
    typedef S U __attribute__((vector_size(16), aligned(4)));
    for (; t + 4 <= n; t += 4) {
      for (int c = 0; c < width; c += 4) {
        const S* s = src + c * ld + t;
        const V r0 = *reinterpret_cast<const U*>(s), r1 = *reinterpret_cast<const U*>(s + ld);
        const V r2 = *reinterpret_cast<const U*>(s + 2 * ld);
        const V r3 = *reinterpret_cast<const U*>(s + 3 * ld);
        const V a = __builtin_shufflevector(r0, r1, 0, 4, 1, 5);
        const V b = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
        const V d = __builtin_shufflevector(r0, r1, 2, 6, 3, 7);
        const V e = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
        S* o = dst + t * width + c;
        *reinterpret_cast<U*>(o) = __builtin_shufflevector(a, b, 0, 1, 4, 5);
        *reinterpret_cast<U*>(o + width) = __builtin_shufflevector(a, b, 2, 3, 6, 7);
        *reinterpret_cast<U*>(o + 2 * width) = __builtin_shufflevector(d, e, 0, 1, 4, 5);
        *reinterpret_cast<U*>(o + 3 * width) = __builtin_shufflevector(d, e, 2, 3, 6, 7);
      }
    }
  }
  for (; t < n; ++t)
    for (int c = 0; c < width; ++c) dst[t * width + c] = src[c * ld + t];
}
