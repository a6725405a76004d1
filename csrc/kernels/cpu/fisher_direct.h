// Convolutions with a few channels per group (depthwise): the register tile would stand almost
// empty, so the vector runs over groups instead. A block of groups is packed as [position][group];
// each tap is then a sum of products over the rows of output whose tap lies inside the input, and
// sums of squares stay in L1 until all samples are through.
//
// Bytes: grad and input once, into panels that live in L1 or L2; bound by the two loads of every
// multiply-add, half of the arithmetic peak.
//
// Included inside a namespace per instruction set, see simd.h.

template <class In>
struct DirectKernel {
  using S = typename Accumulate<In>::type;
  using V = typename Simd<S>::Vec;
  static constexpr int L = Simd<S>::lanes;

  // Output positions [lo, hi) per dimension whose tap falls inside the input, and where at 0.
  struct Tap {
    int64_t at[3], lo[3], hi[3];
    Tap(const Patches& p, int64_t k) {
      const int64_t index[3] = {k / (p.kernel[1] * p.kernel[2]), k / p.kernel[2] % p.kernel[1],
                                k % p.kernel[2]};
      for (int d = 0; d < 3; ++d) {
        at[d] = index[d] * p.dilation[d] - p.padding[d];
        const int64_t step = p.stride[d];
        lo[d] = at[d] >= 0 ? 0 : std::min(p.out[d], (-at[d] + step - 1) / step);
        hi[d] = p.size[d] > at[d]
                    ? std::clamp((p.size[d] - at[d] + step - 1) / step, lo[d], p.out[d])
                    : lo[d];
      }
    }
  };

  static int64_t positions(const Patches& p) { return p.size[0] * p.size[1] * p.size[2]; }

  static int64_t scratch_bytes(const ListedMatmul& f) {
    const int64_t panels = f.O * f.T + f.patches->channels * positions(*f.patches);
    return (panels + 2 * f.G * f.O * f.I) * L * int64_t(sizeof(S)) +
           f.I / f.patches->channels * int64_t(sizeof(Tap));
  }

  static void run(const ListedMatmul& f, void* scratch, int64_t begin, int64_t end) {
    S* grad = static_cast<S*>(scratch);
    S* input = grad + f.O * f.T * L;
    S* sums = input + f.patches->channels * positions(*f.patches) * L;
    Tap* taps = reinterpret_cast<Tap*>(sums + 2 * f.G * f.O * f.I * L);
    for (int64_t k = 0; k < f.I / f.patches->channels; ++k) taps[k] = Tap(*f.patches, k);
    for (int64_t group = begin; group < end; group += L) {
      const int64_t valid = std::min<int64_t>(L, end - group);
      std::fill_n(sums, 2 * f.G * f.O * f.I * L, S(0));
      for (int64_t n = 0; n < f.sample_count; ++n) {
        pack(f, n, group, valid, grad, input);
        sample(f, n, taps, grad, input, sums);
      }
      flush(f, group, valid, sums);
    }
  }

  static void pack(const ListedMatmul& f, int64_t n, int64_t group, int64_t valid, S* grad,
                   S* input) {
    const In* from = static_cast<const In*>(f.grad) + f.samples[n] * f.grad_stride[0] +
                     group * f.conv_grad_stride;
    for (int64_t o = 0; o < f.O; ++o)
      pack_matrix<L>(from + o * f.grad_stride[2], f.grad_stride[1], f.conv_grad_stride, valid, f.T,
                     grad + o * f.T * L);
    from = static_cast<const In*>(f.input) + f.samples[n] * f.input_stride[0] +
           group * f.conv_input_stride;
    for (int64_t c = 0; c < f.patches->channels; ++c)
      pack_channels<L>(*f.patches, from + c * f.patches->in_stride[0], f.conv_input_stride, valid,
                       input + c * positions(*f.patches) * L);
  }

  static void sample(const ListedMatmul& f, int64_t n, const Tap* taps, const S* grad,
                     const S* input, S* sums) {
    const int64_t count = f.I / f.patches->channels, plane = positions(*f.patches) * L;
    for (int64_t channel = 0; channel < f.patches->channels; ++channel) {
      for (int64_t k = 0; k < count; ++k) {
        for (int64_t o = 0; o < f.O; ++o) {
          const V c = correlate(*f.patches, taps[k], grad + o * f.T * L, input + channel * plane);
          for (int64_t g = 0; g < f.G; ++g) {
            const S w = static_cast<const S*>(f.weights)[g * f.N + f.samples[n]];
            if (w == S(0)) continue;
            S* to = sums + ((g * f.O + o) * f.I + channel * count + k) * 2 * L;
            store(to, load(to) + w * c * c);
            store(to + L, load(to + L) + w * c);
          }
        }
      }
    }
  }

  static V correlate(const Patches& p, const Tap& tap, const S* grad, const S* input) {
    V c[4] = {};
    const int64_t step = p.stride[2] * L;
    for (int64_t z = tap.lo[0]; z < tap.hi[0]; ++z) {
      for (int64_t y = tap.lo[1]; y < tap.hi[1]; ++y) {
        const S* g = grad + ((z * p.out[1] + y) * p.out[2] + tap.lo[2]) * L;
        const S* const end = g + (tap.hi[2] - tap.lo[2]) * L;
        const int64_t iz = z * p.stride[0] + tap.at[0], iy = y * p.stride[1] + tap.at[1];
        const S* a =
            input + ((iz * p.size[1] + iy) * p.size[2] + tap.lo[2] * p.stride[2] + tap.at[2]) * L;
        for (; g + 4 * L <= end; g += 4 * L, a += 4 * step) {
          c[0] += load(g) * load(a);
          c[1] += load(g + L) * load(a + step);
          c[2] += load(g + 2 * L) * load(a + 2 * step);
          c[3] += load(g + 3 * L) * load(a + 3 * step);
        }
        if (g < end) c[0] += load(g) * load(a);
        if (g + L < end) c[1] += load(g + L) * load(a + step);
        if (g + 2 * L < end) c[2] += load(g + 2 * L) * load(a + 2 * step);
      }
    }
    return (c[0] + c[1]) + (c[2] + c[3]);
  }

  static void flush(const ListedMatmul& f, int64_t group, int64_t valid, const S* sums) {
    for (int64_t g = 0; g < f.G; ++g) {
      for (int64_t lane = 0; lane < valid; ++lane) {
        const int64_t at = g * f.group_stride + (group + lane) * f.O * f.I;
        for (int64_t i = 0; i < f.O * f.I; ++i) {
          const S* from = sums + (g * f.O * f.I + i) * 2 * L + lane;
          if (f.fisher) static_cast<S*>(f.fisher)[at + i] += from[0];
          if (f.gradient) static_cast<S*>(f.gradient)[at + i] += from[L];
        }
      }
    }
  }
};
