// What comparing a vector of scores takes beyond the vector types of simd.h, and included like it.

// Bit i is lane i of a comparison.
template <class Mask>
inline uint32_t bits(Mask mask) {
  constexpr bool wide = sizeof(mask[0]) == 8;
#if FF_VECTOR_BYTES == 64
  if constexpr (wide) return _mm512_movepi64_mask((__m512i)mask);
  return _mm512_movepi32_mask((__m512i)mask);
#elif FF_VECTOR_BYTES == 32
  return uint32_t(wide ? _mm256_movemask_pd((__m256d)mask) : _mm256_movemask_ps((__m256)mask));
#elif defined(__SSE2__)
  return uint32_t(wide ? _mm_movemask_pd((__m128d)mask) : _mm_movemask_ps((__m128)mask));
#else
  uint32_t result = 0;
  for (unsigned i = 0; i < sizeof(mask) / sizeof(mask[0]); ++i)
    result |= uint32_t(mask[i] & 1) << i;
  return result;
#endif
}

#if FF_VECTOR_BYTES == 32
// For every eight bits the places of those that are set, a byte each.
struct Places {
  uint64_t of[256];
  constexpr Places() : of() {
    for (uint64_t mask = 0; mask < 256; ++mask)
      for (uint64_t place = 0, shift = 0; place < 8; ++place)
        if (mask >> place & 1) of[mask] |= place << shift, shift += 8;
  }
};
constexpr Places kPlaces;
#endif

// Writes first + i for every set bit i and returns how many; out has room for a number per lane.
inline int64_t append_positions(int32_t first, uint32_t set, int32_t* out) {
#if FF_VECTOR_BYTES == 64
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i all = _mm512_add_epi32(_mm512_set1_epi32(first), lanes);
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(__mmask16(set), all));
  return __builtin_popcount(set);
#elif FF_VECTOR_BYTES == 32
  const __m128i places = _mm_cvtsi64_si128(int64_t(kPlaces.of[set]));
  const __m256i all = _mm256_add_epi32(_mm256_set1_epi32(first), _mm256_cvtepu8_epi32(places));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), all);
  return __builtin_popcount(set);
#else
  int64_t count = 0;
  for (int32_t i = 0; i < 4; ++i) {
    out[count] = first + i;
    count += set >> i & 1;
  }
  return count;
#endif
}
