// Embedding rows: a token repeated within a sample is summed before it is squared. Positions come
// sorted by token, so one pass over grad with a row of sums in L1 suffices; ranges are blocks of
// feature columns, which never share an element of F. Bound by memory bandwidth.
//
// Included inside a namespace per instruction set, see simd.h.

template <class In>
struct EmbeddingKernel {
  using S = typename Accumulate<In>::type;

  static void run(const ListedEmbedding& f, void* scratch, int64_t begin, int64_t end) {
    S* sums = static_cast<S*>(scratch);
    const int64_t width = end - begin;
    for (int64_t i = 0; i < f.sample_count; ++i) {
      const int64_t n = f.samples[i];
      const int64_t *tokens = f.tokens + n * f.T, *order = f.order + n * f.T;
      const In* grad =
          static_cast<const In*>(f.grad) + n * f.grad_stride[0] + begin * f.grad_stride[2];
      for (int64_t k = 0; k < f.count[n];) {
        const int64_t token = tokens[order[k]];
        std::fill_n(sums, width, S(0));
        for (; k < f.count[n] && tokens[order[k]] == token; ++k) {
          const In* g = grad + order[k] * f.grad_stride[1];
          for (int64_t d = 0; d < width; ++d) sums[d] += widen(g[d * f.grad_stride[2]]);
        }
        add(f, n, token, begin, width, sums);
      }
    }
  }

  static void add(const ListedEmbedding& f, int64_t n, int64_t token, int64_t begin, int64_t width,
                  const S* sums) {
    for (int64_t g = 0; g < f.G; ++g) {
      const S w = static_cast<const S*>(f.weights)[g * f.N + n];
      if (w == S(0)) continue;
      const int64_t at = (g * f.V + token) * f.D + begin;
      S* fisher = f.fisher ? static_cast<S*>(f.fisher) + at : nullptr;
      S* gradient = f.gradient ? static_cast<S*>(f.gradient) + at : nullptr;
      if (fisher)
        for (int64_t d = 0; d < width; ++d) fisher[d] += w * sums[d] * sums[d];
      if (gradient)
        for (int64_t d = 0; d < width; ++d) gradient[d] += w * sums[d];
    }
  }
};
