// Scale and shift of norms, biases, broadcast sums and products: one streaming read of grad (and
// input), a per-sample sum per parameter, then its square. Bound by memory bandwidth.
//
// B = 1 (features last): a row of parameters at a time, vectorised over the parameters, the sums of
// up to kBlock parameters in L1. Otherwise (channels first): one parameter at a time, vectorised
// over B.
//
// Included inside a namespace per instruction set, see simd.h.

template <class In>
struct AffineKernel {
  using S = typename Accumulate<In>::type;
  static constexpr int64_t kBlock = 1024;

  static void run(const ListedAffine& f, int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; p += kBlock) block(f, p, std::min(end, p + kBlock));
  }

  static void block(const ListedAffine& f, int64_t begin, int64_t end) {
    S scale[kBlock], shift[kBlock];
    for (int64_t n = 0; n < f.sample_count; ++n) {
      std::fill_n(scale, end - begin, S(0));
      std::fill_n(shift, end - begin, S(0));
      for (int64_t a = 0; a < f.A; ++a) {
        if (f.B == 1) {
          sum_row(f, f.samples[n], a, begin, end, scale, shift);
        } else {
          for (int64_t p = begin; p < end; ++p)
            sum_plane(f, f.samples[n], a, p, scale[p - begin], shift[p - begin]);
        }
      }
      if (f.input) add(f, f.samples[n], begin, end, scale, f.scale_fisher, f.scale_gradient);
      add(f, f.samples[n], begin, end, shift, f.shift_fisher, f.shift_gradient);
    }
  }

  static const S* at(const void* base, const int64_t (&stride)[3], int64_t n, int64_t a) {
    return base ? static_cast<const S*>(base) + n * stride[0] + a * stride[1] : nullptr;
  }

  static void sum_row(const ListedAffine& f, int64_t n, int64_t a, int64_t begin, int64_t end,
                      S* __restrict scale, S* __restrict shift) {
    const In* g = static_cast<const In*>(f.grad) + n * f.grad_stride[0] + a * f.grad_stride[1];
    const int64_t gp = f.grad_stride[2], count = end - begin;
    g += begin * gp;
    if (gp == 1) {
      for (int64_t p = 0; p < count; ++p) shift[p] += widen(g[p]);
    } else {
      for (int64_t p = 0; p < count; ++p) shift[p] += widen(g[p * gp]);
    }
    if (!f.input) return;
    const In* x = static_cast<const In*>(f.input) + n * f.input_stride[0] + a * f.input_stride[1];
    const int64_t xp = f.input_stride[2];
    x += begin * xp;
    const S* mean = at(f.mean, f.mean_stride, n, a);
    const S* rstd = at(f.rstd, f.rstd_stride, n, a);
    const bool shared = (!mean || f.mean_stride[2] == 0) && (!rstd || f.rstd_stride[2] == 0);
    if (gp == 1 && xp == 1 && shared) {
      const S m = mean ? *mean : S(0), r = rstd ? *rstd : S(1);
      for (int64_t p = 0; p < count; ++p) scale[p] += widen(g[p]) * ((widen(x[p]) - m) * r);
      return;
    }
    for (int64_t p = 0; p < count; ++p) {
      const S m = mean ? mean[(begin + p) * f.mean_stride[2]] : S(0);
      const S r = rstd ? rstd[(begin + p) * f.rstd_stride[2]] : S(1);
      scale[p] += widen(g[p * gp]) * ((widen(x[p * xp]) - m) * r);
    }
  }

  static void sum_plane(const ListedAffine& f, int64_t n, int64_t a, int64_t p, S& scale,
                        S& shift) {
    const In* g = static_cast<const In*>(f.grad) + n * f.grad_stride[0] + a * f.grad_stride[1] +
                  p * f.grad_stride[2];
    const In* x = nullptr;
    S m = 0, r = 1;
    if (f.input) {
      x = static_cast<const In*>(f.input) + n * f.input_stride[0] + a * f.input_stride[1] +
          p * f.input_stride[2];
      if (const S* mean = at(f.mean, f.mean_stride, n, a)) m = mean[p * f.mean_stride[2]];
      if (const S* rstd = at(f.rstd, f.rstd_stride, n, a)) r = rstd[p * f.rstd_stride[2]];
    }
    const int64_t gb = f.grad_stride[3], xb = f.input_stride[3];
    // Four independent sums hide the latency of an addition.
    using V = typename Simd<S>::Vec;
    constexpr int L = Simd<S>::lanes;
    V sums[4] = {}, products[4] = {};
    int64_t b = 0;
    if (gb == 1 && (!x || xb == 1)) {
      const auto take = [&](int k) {
        const V grad = load_widened<S>(g + b);
        sums[k] += grad;
        if (x) products[k] += grad * (load_widened<S>(x + b) - m);
        b += L;
      };
      while (b + 4 * L <= f.B) take(0), take(1), take(2), take(3);
      for (int k = 0; b + L <= f.B; ++k) take(k);
    }
    S sum = 0, product = 0;
    for (; b < f.B; ++b) {
      sum += widen(g[b * gb]);
      if (x) product += widen(g[b * gb]) * (widen(x[b * xb]) - m);
    }
    shift += sum + total<S>((sums[0] + sums[1]) + (sums[2] + sums[3]));
    if (x)
      scale += (product + total<S>((products[0] + products[1]) + (products[2] + products[3]))) * r;
  }

  static void add(const ListedAffine& f, int64_t n, int64_t begin, int64_t end,
                  const S* __restrict sums, void* fisher, void* gradient) {
    for (int64_t g = 0; g < f.G; ++g) {
      const S w = static_cast<const S*>(f.weights)[g * f.N + n];
      if (w == S(0)) continue;
      if (fisher) {
        S* __restrict to = static_cast<S*>(fisher) + g * f.P + begin;
        for (int64_t p = 0; p < end - begin; ++p) to[p] += w * sums[p] * sums[p];
      }
      if (gradient) {
        S* __restrict to = static_cast<S*>(gradient) + g * f.P + begin;
        for (int64_t p = 0; p < end - begin; ++p) to[p] += w * sums[p];
      }
    }
  }
};
