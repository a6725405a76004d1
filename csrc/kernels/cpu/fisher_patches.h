// The implicit im2col matrix of a convolution, gathered column by column straight from the input.
// Bound by the copies: every column reads about T elements, from a cache after the first tap.
//
// Included inside a namespace per instruction set, see simd.h.

// One column of the implicit im2col matrix, with all divisions done: where its taps fall at output
// (0, 0, 0), and the output x in [lo, hi) whose tap lies inside a row.
struct PatchColumn {
  int64_t base;  // element offset of the channel
  int64_t z, y, x, lo, hi;
};

inline PatchColumn patch_column(const Patches& p, int64_t j) {
  const int64_t kx = j % p.kernel[2], ky = j / p.kernel[2] % p.kernel[1];
  const int64_t kz = j / (p.kernel[2] * p.kernel[1]) % p.kernel[0];
  PatchColumn c;
  c.base = j / (p.kernel[2] * p.kernel[1] * p.kernel[0]) * p.in_stride[0];
  c.z = kz * p.dilation[0] - p.padding[0];
  c.y = ky * p.dilation[1] - p.padding[1];
  c.x = kx * p.dilation[2] - p.padding[2];
  const int64_t W = p.out[2], step = p.stride[2];
  c.lo = c.x >= 0 ? 0 : std::min(W, (-c.x + step - 1) / step);
  c.hi = p.size[2] > c.x ? std::clamp((p.size[2] - c.x + step - 1) / step, c.lo, W) : c.lo;
  return c;
}

// A position in the output; T counts them in row-major order.
struct PatchPosition {
  int64_t z, y, x;
  PatchPosition(const Patches& p, int64_t t)
      : z(t / p.out[2] / p.out[1]), y(t / p.out[2] % p.out[1]), x(t % p.out[2]) {}
  void advance(const Patches& p) {
    if (++x < p.out[2]) return;
    x = 0;
    if (++y == p.out[1]) y = 0, ++z;
  }
};

template <class S>
inline void copy_row(const S* src, int64_t n, S* dst) {
  typedef S Eight __attribute__((vector_size(8 * sizeof(S)), aligned(sizeof(S))));
  typedef S Four __attribute__((vector_size(4 * sizeof(S)), aligned(sizeof(S))));
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    *reinterpret_cast<Eight*>(dst + i) = *reinterpret_cast<const Eight*>(src + i);
  if (i + 4 <= n) {
    *reinterpret_cast<Four*>(dst + i) = *reinterpret_cast<const Four*>(src + i);
    i += 4;
  }
  for (; i < n; ++i) dst[i] = src[i];
}

// dst[0..count) = one column, positions from `at` on.
template <class S, class In>
inline void gather_patches(const Patches& p, const In* sample, const PatchColumn& c,
                           PatchPosition at, int64_t count, S* dst) {
  const int64_t W = p.out[2], step = p.stride[2] * p.in_stride[3];
  const In* plane = sample + c.base + c.x * p.in_stride[3];
  for (S* const end = dst + count; dst < end;) {
    const int64_t x0 = at.x, x1 = std::min<int64_t>(W, x0 + (end - dst));
    const int64_t iy = at.y * p.stride[1] + c.y, iz = at.z * p.stride[0] + c.z;
    if (iy >= 0 && iy < p.size[1] && iz >= 0 && iz < p.size[0]) {
      const int64_t a = std::clamp(c.lo, x0, x1), b = std::clamp(c.hi, a, x1);
      const In* src = plane + iz * p.in_stride[1] + iy * p.in_stride[2] + a * step;
      for (int64_t x = x0; x < a; ++x) *dst++ = 0;
      if constexpr (std::is_same_v<S, In>) {
        if (step == 1) {
          copy_row(src, b - a, dst);
        } else {
          for (int64_t i = 0; i < b - a; ++i) dst[i] = src[i * step];
        }
      } else {
        for (int64_t i = 0; i < b - a; ++i) dst[i] = widen(src[i * step]);
      }
      dst += b - a;
      for (int64_t x = b; x < x1; ++x) *dst++ = 0;
    } else {
      for (int64_t x = x0; x < x1; ++x) *dst++ = 0;
    }
    at.x = 0;
    if (++at.y == p.out[1]) at.y = 0, ++at.z;
  }
}
