// Packing the operands of the matrix kernels into panels [position][width], zero-filled behind the
// last real column.
//
// Included inside a namespace per instruction set, see simd.h.

constexpr int64_t kStrip = 128;  // positions gathered at once before they are transposed

// `column(c, a, b, dst)` writes positions [a, b) of column c.
template <int width, class S, class Column>
inline void pack_columns(int64_t valid, int64_t t0, int64_t t1, S* panel, const Column& column) {
  constexpr int64_t ld = kStrip + 16 / sizeof(S);  // off the power of two: no cache-set conflicts
  alignas(64) S strip[width * ld];
  for (int64_t c = valid; c < width; ++c) std::fill_n(strip + c * ld, kStrip, S(0));
  for (int64_t a = t0; a < t1; a += kStrip) {
    const int64_t b = std::min(t1, a + kStrip);
    for (int64_t c = 0; c < valid; ++c) column(c, a, b, strip + c * ld);
    transpose<width>(strip, ld, b - a, panel + (a - t0) * width);
  }
}

template <int width, class S, class In>
inline void copy_row(const In* __restrict source, S* __restrict to) {
  if constexpr (std::is_same_v<S, In> && width * sizeof(S) % 16 == 0) {
    // In registers: the compiler would call memmove for each row.
    constexpr int bytes = width * sizeof(S) % FF_VECTOR_BYTES == 0 ? FF_VECTOR_BYTES : 16;
    typedef S Part __attribute__((vector_size(bytes), aligned(sizeof(S))));
    constexpr int lanes = bytes / sizeof(S);
#pragma GCC unroll 8
    for (int c = 0; c < width; c += lanes)
      *reinterpret_cast<Part*>(to + c) = *reinterpret_cast<const Part*>(source + c);
  } else {
    for (int c = 0; c < width; ++c) to[c] = widen(source[c]);
  }
}

// From a strided matrix, source[t * row_stride + c * column_stride].
template <int width, class S, class In>
inline void pack_matrix(const In* source, int64_t row_stride, int64_t column_stride, int64_t valid,
                        int64_t count, S* panel) {
  if (column_stride == 1) {
    for (int64_t t = 0; t < count; ++t, panel += width, source += row_stride) {
      if (valid == width) {
        copy_row<width>(source, panel);
      } else {
        for (int64_t c = 0; c < width; ++c) panel[c] = c < valid ? widen(source[c]) : S(0);
      }
    }
    return;
  }
  if constexpr (std::is_same_v<S, In>) {
    // A power of two between columns maps them onto one cache set: then gather strips first.
    if (row_stride == 1 && valid == width && (count < 512 || column_stride % 256 != 0))
      return transpose<width>(source, column_stride, count, panel);
  }
  pack_columns<width>(valid, 0, count, panel, [&](int64_t c, int64_t a, int64_t b, S* dst) {
    copy_widened(source + a * row_stride + c * column_stride, row_stride, b - a, dst);
  });
}

// Columns [0, valid), `column_stride` elements apart, of one sample of a convolution's input: every
// position of it once.
template <int width, class S, class In>
inline void pack_channels(const Patches& p, const In* source, int64_t column_stride, int64_t valid,
                          S* panel) {
  const int64_t W = p.size[2], H = p.size[1], D = p.size[0];
  const int64_t x = p.in_stride[3], y = p.in_stride[2], z = p.in_stride[1];
  const bool rows_join = H == 1 || y == W * x;
  const bool planes_join = rows_join && (D == 1 || z == H * W * x);
  const int64_t run = planes_join ? D * H * W : rows_join ? H * W : W;
  for (int64_t at = 0; at < D * H * W; at += run, panel += run * width)
    pack_matrix<width>(source + at / (H * W) * z + at / W % H * y, x, column_stride, valid, run,
                       panel);
}

// For every tap and strip of output positions: the pairs of panel offsets whose input is not
// padding. `begin` has taps * strips + 1 entries.
template <int columns, int rows>
inline void list_steps(const Patches& p, int64_t strip, int64_t strips, int64_t* begin,
                       Step* steps) {
  const int64_t taps = p.kernel[0] * p.kernel[1] * p.kernel[2];
  const int64_t T = p.out[0] * p.out[1] * p.out[2];
  Step* next = steps;
  for (int64_t k = 0; k < taps; ++k) {
    const int64_t z0 = k / (p.kernel[1] * p.kernel[2]) * p.dilation[0] - p.padding[0];
    const int64_t y0 = k / p.kernel[2] % p.kernel[1] * p.dilation[1] - p.padding[1];
    const int64_t x0 = k % p.kernel[2] * p.dilation[2] - p.padding[2];
    PatchPosition at(p, 0);
    for (int64_t s = 0; s < strips; ++s) {
      *begin++ = next - steps;
      for (int64_t t = s * strip; t < std::min(T, (s + 1) * strip); ++t, at.advance(p)) {
        const int64_t z = at.z * p.stride[0] + z0, y = at.y * p.stride[1] + y0;
        const int64_t x = at.x * p.stride[2] + x0;
        if (z < 0 || z >= p.size[0] || y < 0 || y >= p.size[1] || x < 0 || x >= p.size[2]) continue;
        *next++ = {int32_t(((z * p.size[1] + y) * p.size[2] + x) * columns), int32_t(t * rows)};
      }
    }
  }
  *begin = next - steps;
}

// sums[r] = sum_t panel[t, r] of a panel [count][width] that is followed by 16 elements to spare:
// blocks of positions, so that rounding grows with their number and not with that of the positions.
template <int width, class S>
inline void sum_rows(const S* __restrict panel, int64_t count, S* __restrict sums) {
  constexpr int lanes = Simd<S>::lanes, vectors = (width + lanes - 1) / lanes;
  constexpr int64_t together = 4, block = 64;  // a chain each, to hide the latency of the addition
  typename Simd<S>::Vec total[vectors] = {};
  for (int64_t t = 0; t < count; t += block) {
    const int64_t last = std::min(count, t + block);
    typename Simd<S>::Vec chains[together][vectors] = {};
    int64_t u = t;
    for (; u + together <= last; u += together)
      for (int64_t c = 0; c < together; ++c)
        for (int v = 0; v < vectors; ++v) chains[c][v] += load(panel + (u + c) * width + v * lanes);
    for (; u < last; ++u)
      for (int v = 0; v < vectors; ++v) chains[0][v] += load(panel + u * width + v * lanes);
    for (int v = 0; v < vectors; ++v)
      total[v] += (chains[0][v] + chains[1][v]) + (chains[2][v] + chains[3][v]);
  }
  alignas(64) S all[vectors * lanes];
  for (int v = 0; v < vectors; ++v) store(all + v * lanes, total[v]);
  std::copy_n(all, width, sums);
}
