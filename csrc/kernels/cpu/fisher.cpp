// Cuts the work of the Fisher kernels into ranges for threads. Samples without a weight are left
// out first. Which sums are taken in which order does not depend on the number of threads.
#include "fisher.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "buffer.h"
#include "dispatch.h"

namespace fastforget::cpu {
namespace {

// The samples with a weight in groups [first, last).
template <class Fisher>
std::vector<int64_t> weighted_samples(const Fisher& f, int64_t first, int64_t last) {
  const auto has_weight = [&](int64_t at) {
    return f.dtype == DType::f64 ? static_cast<const double*>(f.weights)[at] != 0
                                 : static_cast<const float*>(f.weights)[at] != 0;
  };
  std::vector<int64_t> samples;
  for (int64_t n = 0; n < f.N; ++n) {
    bool any = false;
    for (int64_t g = first; g < last; ++g) any = any || has_weight(g * f.N + n);
    if (any) samples.push_back(n);
  }
  return samples;
}

ListedSamples listed(const std::vector<int64_t>& samples) {
  return {samples.data(), static_cast<int64_t>(samples.size())};
}

void* advance_sums(void* sums, int64_t elements, DType dtype) {
  return sums ? static_cast<char*>(sums) + elements * sum_size(dtype) : nullptr;
}

void clear_sums(void* sums, int64_t elements, DType dtype) {
  if (sums) std::memset(sums, 0, static_cast<size_t>(elements * sum_size(dtype)));
}

// The results of the groups [first, last) that no kernel is going to write.
void clear_results(const MatmulFisher& f, int64_t first, int64_t last) {
  for (int64_t g = first; g < last; ++g)
    for (void* result : {f.fisher, f.gradient})
      clear_sums(advance_sums(result, g * f.group_stride, f.dtype), f.O * f.I, f.dtype);
}

// Packed grad that several threads share before they take up the products.
constexpr int64_t kPackedTogether = 16 << 20;  // bytes

// Runs the tiled kernel over chunks of samples; see fisher_kernels.h for the two passes. One thread
// packs a chunk and uses it at once, from its cache. Several threads would wait for each other
// twice a chunk, so they pack many chunks first and then go through them unit by unit. The order of
// the sums is the same in both.
void run_matmul(const ListedMatmul& f, const Parallel& parallel) {
  const FisherKernels& kernels = fisher_kernels();
  const int64_t threads = parallel.threads();
  const MatmulPlan plan = kernels.matmul_plan(f, threads);
  const int64_t chunks = (f.sample_count + plan.chunk - 1) / plan.chunk;
  int64_t together = threads > 1 ? chunks : 1;
  if (!plan.own_grad)
    together = std::clamp<int64_t>(kPackedTogether / plan.packed_bytes, 1, together);
  const Buffer packed(together * plan.packed_bytes), tap_lists(plan.tap_list_bytes);
  if (plan.by_taps) kernels.matmul_list_taps(f, plan, tap_lists.get());
  for (int64_t first = 0; first < chunks; first += together) {
    const auto for_each_chunk = [&](const auto& run) {
      for (int64_t c = first; c < std::min(chunks, first + together); ++c)
        run(c * plan.chunk, std::min(f.sample_count, (c + 1) * plan.chunk),
            static_cast<char*>(packed.get()) + (c - first) * plan.packed_bytes);
    };
    if (!plan.own_grad)
      parallel(plan.row_tiles, 1, [&](int64_t begin, int64_t end) {
        for_each_chunk([&](int64_t n0, int64_t n1, void* to) {
          kernels.matmul_pack(f, plan, n0, n1, to, begin, end);
        });
      });
    parallel(plan.units, 1, [&](int64_t begin, int64_t end) {
      const Buffer scratch(plan.scratch_bytes);
      for_each_chunk([&](int64_t n0, int64_t n1, const void* from) {
        kernels.matmul_accumulate(f, plan, n0, n1, tap_lists.get(), from, scratch.get(), begin,
                                  end);
      });
    });
  }
}

// T = 1: two plain matrix products per group, over the samples of that group only.
void run_flat(const MatmulFisher& problem, const Parallel& parallel) {
  for (int64_t g = 0; g < problem.G; ++g) {
    const std::vector<int64_t> samples = weighted_samples(problem, g, g + 1);
    if (problem.overwrite && samples.empty()) clear_results(problem, g, g + 1);
    if (samples.empty()) continue;
    ListedMatmul f{problem, listed(samples)};
    f.flat_group = g;
    for (const int power : {1, 2}) {
      f.flat_power = power;
      if (power == 1 ? f.gradient : f.fisher) run_matmul(f, parallel);
    }
  }
}

void run_tiled(const MatmulFisher& f, const Parallel& parallel) {
  if (f.O == 0 || f.I == 0) return;
  if (f.T == 1) return run_flat(f, parallel);
  const std::vector<int64_t> samples = weighted_samples(f, 0, f.G);
  if (!samples.empty() && f.T > 0) return run_matmul({f, listed(samples)}, parallel);
  if (f.overwrite) clear_results(f, 0, f.G);
}

void run_affine(const ListedAffine& f, const Parallel& parallel) {
  parallel(f.P, 1, [&](int64_t begin, int64_t end) { fisher_kernels().affine(f, begin, end); });
}

void run_direct(const MatmulFisher& problem, int64_t groups, const Parallel& parallel) {
  const std::vector<int64_t> samples = weighted_samples(problem, 0, problem.G);
  const ListedMatmul f{problem, listed(samples)};
  if (f.overwrite)
    for (void* result : {f.fisher, f.gradient}) clear_sums(result, f.G * f.group_stride, f.dtype);
  if (f.bias_fisher || f.bias_gradient)
    run_affine({bias_of(f, groups * f.O), listed(samples)}, parallel);
  parallel(groups, 16, [&](int64_t begin, int64_t end) {
    const Buffer scratch(fisher_kernels().direct_bytes(f));
    fisher_kernels().direct(f, scratch.get(), begin, end);
  });
}

// Goes on to the next convolution group.
void advance_group(MatmulFisher& f) {
  const auto operand = [&](const void* data, int64_t elements) {
    return static_cast<const char*>(data) + elements * element_size(f.dtype);
  };
  f.grad = operand(f.grad, f.conv_grad_stride);
  f.input = operand(f.input, f.conv_input_stride);
  for (void** result : {&f.fisher, &f.gradient})
    *result = advance_sums(*result, f.O * f.I, f.dtype);
  for (void** result : {&f.bias_fisher, &f.bias_gradient})
    *result = advance_sums(*result, f.O, f.dtype);
}

// The positions of each sample sorted by token, padding left out.
struct TokenOrder {
  TokenOrder(const int64_t* tokens, int64_t N, int64_t T, int64_t padding)
      : order(static_cast<size_t>(N * T)), count(static_cast<size_t>(N)) {
    for (int64_t n = 0; n < N; ++n) {
      int64_t* first = order.data() + n * T;
      int64_t* last = first;
      for (int64_t t = 0; t < T; ++t)
        if (tokens[n * T + t] != padding) *last++ = t;
      std::stable_sort(first, last,
                       [&](int64_t a, int64_t b) { return tokens[n * T + a] < tokens[n * T + b]; });
      count[static_cast<size_t>(n)] = last - first;
    }
  }
  std::vector<int64_t> order, count;
};

}  // namespace

void fisher_linear(const MatmulFisher& f, const Parallel& parallel) { run_tiled(f, parallel); }

void fisher_convolution(const MatmulFisher& first, int64_t groups, const Parallel& parallel) {
  constexpr int64_t kFewRows = 4;  // would leave most of a register tile empty
  if (groups > 1 && first.O <= kFewRows && first.T > 0) return run_direct(first, groups, parallel);
  MatmulFisher f = first;
  for (int64_t group = 0; group < groups; ++group, advance_group(f)) run_tiled(f, parallel);
}

void fisher_affine(const AffineFisher& f, const Parallel& parallel) {
  const std::vector<int64_t> samples = weighted_samples(f, 0, f.G);
  run_affine({f, listed(samples)}, parallel);
}

void fisher_embedding(const EmbeddingFisher& problem, int64_t padding, const Parallel& parallel) {
  const std::vector<int64_t> samples = weighted_samples(problem, 0, problem.G);
  const TokenOrder sorted(problem.tokens, problem.N, problem.T, padding);
  const ListedEmbedding f{problem, listed(samples), sorted.order.data(), sorted.count.data()};
  parallel(f.D, 16, [&](int64_t begin, int64_t end) {
    const Buffer scratch((end - begin) * 8);
    fisher_kernels().embedding(f, scratch.get(), begin, end);
  });
}

}  // namespace fastforget::cpu
