// Runs the CPU kernels without PyTorch, on the instructions of whatever it was compiled for, and
// compares them with plain loops in double: `make arm` compiles it for ARM and runs it in an
// emulator.
//
// Every kernel runs with its work in one range and in three, and the bits must be the same.
#include <algorithm>
#include <numeric>

#include "../../csrc/kernels/cpu/dispatch.h"
#include "../../csrc/kernels/cpu/fingerprint.h"
#include "../../csrc/kernels/cpu/fisher.h"
#include "../../csrc/kernels/cpu/perturb.h"
#include "../../csrc/kernels/cpu/project.h"
#include "../../csrc/kernels/cpu/select.h"
#include "../../csrc/kernels/fingerprint.h"
#include "../../csrc/kernels/weights_from_gram.h"
#include "numbers.h"

namespace fastforget::tests {
namespace {

constexpr DType kTypes[] = {DType::f32, DType::f64, DType::bf16, DType::f16};
constexpr int64_t G = 2;

double tolerance(DType dtype) { return dtype == DType::f64 ? 1e-13 : 2e-6; }

// Sums of squares and of gradients of one parameter, right and found.
struct Totals {
  std::vector<double> right_fisher, right_gradient;
  Values fisher, gradient;

  Totals(DType dtype, int64_t elements)
      : right_fisher(size_t(G * elements)),
        right_gradient(size_t(G * elements)),
        fisher(sum_type(dtype), G * elements),
        gradient(sum_type(dtype), G * elements) {}

  void add(const Values& weights, int64_t n, int64_t element, double c) {
    const int64_t elements = int64_t(right_fisher.size()) / G, N = weights.size() / G;
    for (int64_t g = 0; g < G; ++g) {
      const double w = weights.numbers[size_t(g * N + n)];
      right_fisher[size_t(g * elements + element)] += w * c * c;
      right_gradient[size_t(g * elements + element)] += w * c;
    }
  }

  void clear() {
    std::fill(fisher.bytes.begin(), fisher.bytes.end(), 0);
    std::fill(gradient.bytes.begin(), gradient.bytes.end(), 0);
  }

  void check(const char* what) {
    expect_close(fisher, right_fisher, tolerance(fisher.dtype), what);
    expect_close(gradient, right_gradient, tolerance(fisher.dtype), what);
  }
};

Values positive_weights(DType dtype, int64_t samples) {
  Values weights = normal(sum_type(dtype), G * samples);
  for (int64_t i = 0; i < weights.size(); ++i)
    weights.set(i, i == 1 ? 0 : std::fabs(weights.numbers[size_t(i)]));
  return weights;
}

// Runs a kernel with one range of work and with three.
template <class Run>
void in_both_cuts(std::initializer_list<Totals*> totals, const char* what, const Run& run) {
  run(cut_into<1>());
  std::vector<std::vector<unsigned char>> once;
  for (Totals* each : totals) {
    each->check(what);
    once.push_back(each->fisher.bytes), once.push_back(each->gradient.bytes);
    each->clear();
  }
  run(cut_into<3>());
  size_t place = 0;
  for (Totals* each : totals) {
    expect(each->fisher.bytes == once[place++], what, "the bits depend on the cut");
    expect(each->gradient.bytes == once[place++], what, "the bits depend on the cut");
  }
}

void linear(DType dtype, int64_t N, int64_t T, int64_t O, int64_t I) {
  Values grad = normal(dtype, N * T * O), input = normal(dtype, N * T * I),
         weights = positive_weights(dtype, N);
  Totals weight(dtype, O * I), bias(dtype, O);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t o = 0; o < O; ++o) {
      double shift = 0;
      for (int64_t t = 0; t < T; ++t) shift += grad.numbers[size_t((n * T + t) * O + o)];
      bias.add(weights, n, o, shift);
      for (int64_t i = 0; i < I; ++i) {
        double c = 0;
        for (int64_t t = 0; t < T; ++t)
          c += grad.numbers[size_t((n * T + t) * O + o)] *
               input.numbers[size_t((n * T + t) * I + i)];
        weight.add(weights, n, o * I + i, c);
      }
    }
  MatmulFisher f{};
  f.dtype = dtype, f.G = G, f.N = N, f.T = T, f.O = O, f.I = I;
  f.grad = grad.data(), f.grad_stride[0] = T * O, f.grad_stride[1] = O, f.grad_stride[2] = 1;
  f.input = input.data(), f.input_stride[0] = T * I, f.input_stride[1] = I, f.input_stride[2] = 1;
  f.weights = weights.data(), f.fisher = weight.fisher.data(), f.gradient = weight.gradient.data();
  f.group_stride = O * I, f.bias_fisher = bias.fisher.data(),
  f.bias_gradient = bias.gradient.data(), f.bias_stride = O;
  in_both_cuts({&weight, &bias}, "linear",
               [&](const cpu::Parallel& p) { cpu::fisher_linear(f, p); });
}

void convolution(DType dtype, int64_t N, int64_t channels, int64_t O, int64_t size, int64_t kernel,
                 int64_t stride) {
  const int64_t padding = kernel / 2, out = (size + 2 * padding - kernel) / stride + 1,
                taps = kernel * kernel;
  const int64_t T = out * out, I = channels * taps;
  Values grad = normal(dtype, N * O * T), input = normal(dtype, N * channels * size * size);
  Values weights = positive_weights(dtype, N);
  Totals weight(dtype, O * I);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t o = 0; o < O; ++o)
      for (int64_t i = 0; i < I; ++i) {
        const int64_t channel = i / taps, ky = i % taps / kernel, kx = i % kernel;
        double c = 0;
        for (int64_t t = 0; t < T; ++t) {
          const int64_t y = t / out * stride + ky - padding, x = t % out * stride + kx - padding;
          if (y < 0 || y >= size || x < 0 || x >= size) continue;
          c += grad.numbers[size_t((n * O + o) * T + t)] *
               input.numbers[size_t(((n * channels + channel) * size + y) * size + x)];
        }
        weight.add(weights, n, o * I + i, c);
      }
  const Patches patches{channels,
                        {1, size, size},
                        {1, out, out},
                        {1, kernel, kernel},
                        {1, stride, stride},
                        {0, padding, padding},
                        {1, 1, 1},
                        {size * size, size * size, size, 1}};
  MatmulFisher f{};
  f.dtype = dtype, f.G = G, f.N = N, f.T = T, f.O = O, f.I = I, f.patches = &patches;
  f.grad = grad.data(), f.grad_stride[0] = O * T, f.grad_stride[1] = 1, f.grad_stride[2] = T;
  f.input = input.data(), f.input_stride[0] = channels * size * size;
  f.weights = weights.data(), f.fisher = weight.fisher.data(), f.gradient = weight.gradient.data();
  f.group_stride = O * I;
  in_both_cuts({&weight}, "convolution",
               [&](const cpu::Parallel& p) { cpu::fisher_convolution(f, 1, p); });
}

void affine(DType dtype, int64_t N, int64_t A, int64_t P, int64_t B) {
  Values grad = normal(dtype, N * A * P * B), input = normal(dtype, N * A * P * B);
  Values weights = positive_weights(dtype, N);
  Totals scale(dtype, P), shift(dtype, P);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t p = 0; p < P; ++p) {
      double of_scale = 0, of_shift = 0;
      for (int64_t a = 0; a < A; ++a)
        for (int64_t b = 0; b < B; ++b) {
          const size_t at = size_t(((n * A + a) * P + p) * B + b);
          of_shift += grad.numbers[at], of_scale += grad.numbers[at] * input.numbers[at];
        }
      scale.add(weights, n, p, of_scale), shift.add(weights, n, p, of_shift);
    }
  AffineFisher f{};
  f.dtype = dtype, f.G = G, f.N = N, f.A = A, f.P = P, f.B = B;
  f.grad = grad.data(), f.input = input.data(), f.weights = weights.data();
  const int64_t strides[] = {A * P * B, P * B, B, 1};
  std::copy(strides, strides + 4, f.grad_stride), std::copy(strides, strides + 4, f.input_stride);
  f.scale_fisher = scale.fisher.data(), f.scale_gradient = scale.gradient.data();
  f.shift_fisher = shift.fisher.data(), f.shift_gradient = shift.gradient.data();
  in_both_cuts({&scale, &shift}, "affine",
               [&](const cpu::Parallel& p) { cpu::fisher_affine(f, p); });
}

void embedding(DType dtype, int64_t N, int64_t T, int64_t V, int64_t D) {
  Values grad = normal(dtype, N * T * D), weights = positive_weights(dtype, N);
  std::vector<int64_t> tokens(size_t(N * T));
  for (int64_t& token : tokens) token = int64_t(generator()() % uint64_t(V));
  Totals table(dtype, V * D);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t v = 0; v < V; ++v)
      for (int64_t d = 0; d < D; ++d) {
        double c = 0;
        for (int64_t t = 0; t < T; ++t)
          if (tokens[size_t(n * T + t)] == v) c += grad.numbers[size_t((n * T + t) * D + d)];
        table.add(weights, n, v * D + d, c);
      }
  EmbeddingFisher f{};
  f.dtype = dtype, f.G = G, f.N = N, f.T = T, f.V = V, f.D = D;
  f.grad = grad.data(), f.grad_stride[0] = T * D, f.grad_stride[1] = D, f.grad_stride[2] = 1;
  f.tokens = tokens.data(), f.weights = weights.data();
  f.fisher = table.fisher.data(), f.gradient = table.gradient.data();
  in_both_cuts({&table}, "embedding",
               [&](const cpu::Parallel& p) { cpu::fisher_embedding(f, -1, p); });
}

// Half types have many equal scores: which of them are taken is decided by their order.
void select_and_perturb(DType dtype, std::vector<int64_t> sizes, int64_t k) {
  std::vector<Values> scores, parameters, directions;
  std::vector<const void*> score_data, direction_data;
  std::vector<void*> parameter_data;
  std::vector<std::pair<double, int64_t>> ranked;  // minus the score, and the place among all
  int64_t words = 0, place = 0;
  for (int64_t size : sizes) {
    scores.push_back(normal(dtype, size)), parameters.push_back(normal(dtype, size));
    directions.push_back(normal(sum_type(dtype), size));
    for (double score : scores.back().numbers) ranked.emplace_back(-score, place++);
    words += mask_words(size);
  }
  for (size_t l = 0; l < sizes.size(); ++l) {
    score_data.push_back(scores[l].data()), direction_data.push_back(directions[l].data());
    parameter_data.push_back(parameters[l].data());
  }
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<bool> wanted(static_cast<size_t>(place));
  for (int64_t i = 0; i < k; ++i) wanted[size_t(ranked[size_t(i)].second)] = true;

  const ScoreTensors tensors{dtype, int64_t(sizes.size()), sizes.data(), score_data.data()};
  std::vector<uint64_t> mask(static_cast<size_t>(words)), again(static_cast<size_t>(words));
  double threshold = 0;
  expect(cpu::select(tensors, k, mask.data(), &threshold, cut_into<1>()) == 0, "select",
         "no score is NaN");
  cpu::select(tensors, k, again.data(), &threshold, cut_into<3>());
  expect(mask == again, "select", "the bits depend on the cut");
  const int64_t elements = place;
  int64_t word = 0;
  place = 0;
  for (int64_t size : sizes) {
    for (int64_t i = 0; i < size; ++i, ++place) {
      const bool marked = mask[size_t(word + i / 64)] >> (i % 64) & 1;
      expect(marked == wanted[size_t(place)], "select", name_of(dtype));
    }
    word += mask_words(size);
  }
  expect(place == elements, "select", "every element was looked at");

  const cpu::RankedMask ranked_mask(BitMask{mask.data(), int64_t(sizes.size()), sizes.data()},
                                    cut_into<3>());
  expect(ranked_mask.ones() == k, "mask", name_of(dtype));
  std::vector<unsigned char> old(size_t(k * element_size(dtype)));
  const std::vector<Values> before = parameters;
  cpu::perturb(ranked_mask, dtype, sum_type(dtype), parameter_data.data(), direction_data.data(),
               -0.25, old.data(), cut_into<3>());
  place = 0;
  for (size_t l = 0; l < sizes.size(); ++l) {
    parameters[l].refresh();
    for (int64_t i = 0; i < sizes[l]; ++i, ++place) {
      const double was = before[l].numbers[size_t(i)], now = parameters[l].numbers[size_t(i)];
      if (!wanted[size_t(place)]) {
        expect(now == was, "perturb", "an element was not marked");
        continue;
      }
      // Computed in the type of the direction and rounded once to the parameter's: off by an ulp of
      // either.
      const double right = was - 0.25 * directions[l].numbers[size_t(i)];
      const double ulp = dtype == DType::f64   ? 1e-15
                         : dtype == DType::f32 ? 2.4e-7
                         : dtype == DType::f16 ? 1e-3
                                               : 8e-3;
      expect(std::fabs(now - right) <= ulp * (std::fabs(was) + std::fabs(right)), "perturb",
             name_of(dtype));
    }
  }
  cpu::perturb_undo(ranked_mask, int(element_size(dtype)), parameter_data.data(), old.data(),
                    cut_into<1>());
  for (size_t l = 0; l < sizes.size(); ++l)
    expect(parameters[l].bytes == before[l].bytes, "undo", name_of(dtype));
}

void project(DType dtype, int64_t K, std::vector<int64_t> sizes) {
  const int64_t L = int64_t(sizes.size());
  std::vector<DType> dtypes(size_t(L), dtype);
  std::vector<Values> grads, outputs;
  std::vector<const void*> data;
  std::vector<double> gram(size_t(K * K)), right(size_t(K * K));
  for (int64_t size : sizes) {
    for (int64_t k = 0; k < K; ++k) grads.push_back(normal(dtype, size));
    outputs.emplace_back(dtype, size);
  }
  for (Values& grad : grads) data.push_back(grad.data());
  for (int64_t l = 0; l < L; ++l)
    for (int64_t i = 0; i < K; ++i)
      for (int64_t j = 0; j < K; ++j)
        right[size_t(i * K + j)] += std::inner_product(
            grads[size_t(l * K + i)].numbers.begin(), grads[size_t(l * K + i)].numbers.end(),
            grads[size_t(l * K + j)].numbers.begin(), 0.0);
  const GradTensors tensors{K, L, dtypes.data(), sizes.data(), data.data()};
  cpu::project_gram(tensors, false, gram.data(), cut_into<1>());
  std::vector<double> again(gram.size());
  cpu::project_gram(tensors, false, again.data(), cut_into<3>());
  expect(gram == again, "gram", "the bits depend on the cut");
  for (size_t i = 0; i < right.size(); ++i)
    expect(std::fabs(gram[i] - right[i]) <= 1e-9 * right[0], "gram", name_of(dtype));

  std::vector<int64_t> order;
  for (int64_t i = 0; i < K; ++i)
    for (int64_t j = 0; j < K; ++j) order.push_back(j == i ? -1 : j);
  std::vector<double> weights(static_cast<size_t>(K)), current(static_cast<size_t>(K)),
      wanted(static_cast<size_t>(K));
  cpu::project_weights(gram.data(), order.data(), 1, K, K, weights.data());
  weights_from_gram(gram.data(), order.data(), K, K, current.data(), wanted.data());
  expect(weights == wanted, "weights", name_of(dtype));
  std::vector<void*> out;
  for (Values& output : outputs) out.push_back(output.data());
  cpu::project_combine(tensors, 1, weights.data(), out.data(), cut_into<3>());
  for (int64_t l = 0; l < L; ++l) {
    std::vector<double> sum(size_t(sizes[size_t(l)]));
    for (int64_t k = 0; k < K; ++k)
      for (size_t i = 0; i < sum.size(); ++i)
        sum[i] += weights[size_t(k)] * grads[size_t(l * K + k)].numbers[i];
    const double rounding = dtype == DType::bf16  ? 4e-3
                            : dtype == DType::f16 ? 5e-4
                                                  : tolerance(dtype);
    expect_close(outputs[size_t(l)], sum, rounding, "combine");
  }
}

void fingerprint(int64_t words) {
  std::vector<uint32_t> data(static_cast<size_t>(words));
  for (uint32_t& word : data) word = uint32_t(generator()());
  uint64_t right[2] = {0, 0}, found[2] = {0, 0};
  for (int s = 0; s < 2; ++s) {
    const uint32_t a = kFingerprintFactors[2 * s], b = kFingerprintFactors[2 * s + 1];
    const uint32_t c = kFingerprintTerms[2 * s], d = kFingerprintTerms[2 * s + 1];
    for (int64_t i = 0; i < words; ++i) {
      const uint32_t w = data[size_t(i)], index = uint32_t(i);
      right[s] += uint64_t(w + index * a + c) * uint64_t(w ^ (index * b + d));
    }
  }
  cpu::fingerprint(data.data(), 4, words, found, cut_into<3>());
  expect(found[0] == right[0] && found[1] == right[1], "fingerprint", "of 32-bit words");
}

}  // namespace
}  // namespace fastforget::tests

int main() {
  using namespace fastforget;
  using namespace fastforget::tests;
  for (DType dtype : kTypes) {
    linear(dtype, 5, 1, 17, 33), linear(dtype, 4, 9, 24, 40), linear(dtype, 3, 67, 7, 5);
    convolution(dtype, 3, 3, 8, 9, 3, 1), convolution(dtype, 2, 17, 20, 6, 3, 2),
        convolution(dtype, 3, 8, 16, 5, 1, 1);
    affine(dtype, 4, 3, 19, 7), affine(dtype, 3, 1, 70, 1);
    embedding(dtype, 4, 11, 13, 21);
    select_and_perturb(dtype, {1000, 1, 70, 4097}, 517),
        select_and_perturb(dtype, {33, 20000}, 20032);
    project(dtype, 3, {1000, 1, 4099}), project(dtype, 6, {77});
  }
  fingerprint(10007);
  std::printf("%s: %d comparisons are right\n", cpu::simd_level(), checks());
}
