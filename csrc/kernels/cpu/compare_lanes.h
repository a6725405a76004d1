// Comparisons of vectors of scores as bits: bit i is lane i.
//
// Included inside a namespace per instruction set, see simd.h.

template <class Mask>
inline uint32_t bits_of(Mask mask) {
#if FF_VECTOR_BYTES == 32
  if constexpr (sizeof(mask[0]) == 8) return uint32_t(_mm256_movemask_pd((__m256d)mask));
  return uint32_t(_mm256_movemask_ps((__m256)mask));
#elif FF_VECTOR_BYTES == 16 && defined(__SSE2__)
  if constexpr (sizeof(mask[0]) == 8) return uint32_t(_mm_movemask_pd((__m128d)mask));
  return uint32_t(_mm_movemask_ps((__m128)mask));
#else
  uint32_t result = 0;
  for (unsigned i = 0; i < sizeof(mask) / sizeof(mask[0]); ++i)
    result |= uint32_t(mask[i] & 1) << i;
  return result;
#endif
}

#if FF_VECTOR_BYTES == 64
template <int predicate, class Vec>
inline uint32_t compare(Vec a, Vec b) {
  if constexpr (sizeof(a[0]) == 8)
    return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, predicate);
  else
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, predicate);
}
#endif

// a > b; false for NaN.
template <class Vec>
inline uint32_t above(Vec a, Vec b) {
#if FF_VECTOR_BYTES == 64
  return compare<_CMP_GT_OQ>(a, b);
#else
  return bits_of(a > b);
#endif
}

// a == b; false for NaN.
template <class Vec>
inline uint32_t equal(Vec a, Vec b) {
#if FF_VECTOR_BYTES == 64
  return compare<_CMP_EQ_OQ>(a, b);
#else
  return bits_of(a == b);
#endif
}
