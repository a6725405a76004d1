// Every CPU kernel once, for callgrind to count the instructions of: see count.py.
//
// Each case is a dump of its own, which names it and says how much work it did: multiply-adds, or
// elements read.
#include <valgrind/callgrind.h>

#include <cstdio>
#include <functional>
#include <random>
#include <string>

#include "../../csrc/kernels/cpu/dispatch.h"
#include "../../csrc/kernels/cpu/element.h"
#include "../../csrc/kernels/cpu/fingerprint.h"
#include "../../csrc/kernels/cpu/fisher.h"
#include "../../csrc/kernels/cpu/perturb.h"
#include "../../csrc/kernels/cpu/project.h"
#include "../../csrc/kernels/cpu/select.h"

namespace fastforget {
namespace {

const cpu::Parallel kOneThread = {[](int64_t count, int64_t, cpu::Parallel::Range range,
                                     const void* work) { range(work, 0, count); },
                                  [] { return int64_t(1); }};

std::mt19937_64 numbers(5);

std::vector<float> normal(int64_t count) {
  std::normal_distribution<float> draw;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = draw(numbers);
  return values;
}

std::vector<cpu::BFloat16> rounded(const std::vector<float>& values) {
  std::vector<cpu::BFloat16> narrow;
  for (float value : values) narrow.push_back(cpu::narrow<cpu::BFloat16>(value));
  return narrow;
}

void count(const std::string& name, int64_t work, const std::function<void()>& run) {
  const std::string label = name + " | " + std::to_string(work);  // read when the dump is written
  CALLGRIND_ZERO_STATS;
  run();
  CALLGRIND_DUMP_STATS_AT(label.c_str());
}

template <class In>
void linear(const std::string& name, DType dtype, const In* grad, const In* input, int64_t N,
            int64_t T, int64_t O, int64_t I) {
  std::vector<float> weights(static_cast<size_t>(N), 1.0f), fisher(static_cast<size_t>(O * I));
  MatmulFisher f{};
  f.dtype = dtype, f.G = 1, f.N = N, f.T = T, f.O = O, f.I = I, f.overwrite = true;
  f.grad = grad, f.grad_stride[0] = T * O, f.grad_stride[1] = O, f.grad_stride[2] = 1;
  f.input = input, f.input_stride[0] = T * I, f.input_stride[1] = I, f.input_stride[2] = 1;
  f.weights = weights.data(), f.fisher = fisher.data(), f.group_stride = O * I;
  count(name, N * T * O * I, [&] { cpu::fisher_linear(f, kOneThread); });
}

void linear(const std::string& name, int64_t N, int64_t T, int64_t O, int64_t I) {
  const std::vector<float> grad = normal(N * T * O), input = normal(N * T * I);
  linear(name + ", float32", DType::f32, grad.data(), input.data(), N, T, O, I);
  linear(name + ", bfloat16", DType::bf16, rounded(grad).data(), rounded(input).data(), N, T, O, I);
}

void convolution(const std::string& name, int64_t N, int64_t channels, int64_t O, int64_t size,
                 int64_t kernel, int64_t groups) {
  const int64_t padding = kernel / 2, T = size * size, per_group = channels / groups,
                out = O / groups;
  const int64_t I = per_group * kernel * kernel;
  const std::vector<float> grad = normal(N * O * T), input = normal(N * channels * T);
  std::vector<float> weights(static_cast<size_t>(N), 1.0f), fisher(static_cast<size_t>(O * I));
  const Patches patches{per_group, {1, size, size},       {1, size, size}, {1, kernel, kernel},
                        {1, 1, 1}, {0, padding, padding}, {1, 1, 1},       {T, T, size, 1}};
  MatmulFisher f{};
  f.dtype = DType::f32, f.G = 1, f.N = N, f.T = T, f.O = out, f.I = I, f.patches = &patches,
  f.overwrite = true;
  f.grad = grad.data(), f.grad_stride[0] = O * T, f.grad_stride[1] = 1, f.grad_stride[2] = T;
  f.input = input.data(), f.input_stride[0] = channels * T;
  f.conv_grad_stride = out * T, f.conv_input_stride = per_group * T;
  f.weights = weights.data(), f.fisher = fisher.data(), f.group_stride = O * I;
  count(name, N * T * O * I, [&] { cpu::fisher_convolution(f, groups, kOneThread); });
}

void affine(int64_t N, int64_t P, int64_t B) {
  const std::vector<float> grad = normal(N * P * B), input = normal(N * P * B);
  std::vector<float> weights(static_cast<size_t>(N), 1.0f), scale(static_cast<size_t>(P)),
      shift(static_cast<size_t>(P));
  AffineFisher f{};
  f.dtype = DType::f32, f.G = 1, f.N = N, f.A = 1, f.P = P, f.B = B;
  f.grad = grad.data(), f.grad_stride[0] = P * B, f.grad_stride[2] = B, f.grad_stride[3] = 1;
  f.input = input.data(), f.input_stride[0] = P * B, f.input_stride[2] = B, f.input_stride[3] = 1;
  f.weights = weights.data(), f.scale_fisher = scale.data(), f.shift_fisher = shift.data();
  count("batch norm 16 x 64 x 256", N * P * B, [&] { cpu::fisher_affine(f, kOneThread); });
}

void embedding(int64_t N, int64_t T, int64_t V, int64_t D) {
  const std::vector<float> grad = normal(N * T * D);
  std::vector<int64_t> tokens(static_cast<size_t>(N * T));
  for (int64_t& token : tokens) token = int64_t(numbers() % uint64_t(V));
  std::vector<float> weights(static_cast<size_t>(N), 1.0f), fisher(static_cast<size_t>(V * D));
  EmbeddingFisher f{};
  f.dtype = DType::f32, f.G = 1, f.N = N, f.T = T, f.V = V, f.D = D;
  f.grad = grad.data(), f.grad_stride[0] = T * D, f.grad_stride[1] = D, f.grad_stride[2] = 1;
  f.tokens = tokens.data(), f.weights = weights.data(), f.fisher = fisher.data();
  count("embedding 16 x 64 of 1000 x 128", N * T * D,
        [&] { cpu::fisher_embedding(f, -1, kOneThread); });
}

// 0.3 % of the elements, as `one_shot` selects by default.
void select_and_perturb(int64_t elements) {
  std::vector<float> scores = normal(elements), parameters = normal(elements);
  const std::vector<float> direction = normal(elements);
  const int64_t k = elements * 3 / 1000;
  const void* const score_data[] = {scores.data()};
  const void* const directions[] = {direction.data()};
  void* const data[] = {parameters.data()};
  std::vector<uint64_t> mask(static_cast<size_t>(mask_words(elements)));
  float threshold = 0;
  count("select 0.3 % of a million", elements, [&] {
    cpu::select({DType::f32, 1, &elements, score_data}, k, mask.data(), &threshold, kOneThread);
  });
  std::vector<float> old(static_cast<size_t>(k));
  count("perturb 0.3 % of a million", elements, [&] {
    const cpu::RankedMask ranked(BitMask{mask.data(), 1, &elements}, kOneThread);
    cpu::perturb(ranked, DType::f32, DType::f32, data, directions, -0.1, old.data(), kOneThread);
  });
}

void project(int64_t K, int64_t elements) {
  std::vector<std::vector<float>> grads;
  std::vector<const void*> data;
  for (int64_t k = 0; k < K; ++k) grads.push_back(normal(elements));
  for (const std::vector<float>& grad : grads) data.push_back(grad.data());
  const DType dtype = DType::f32;
  const GradTensors tensors{K, 1, &dtype, &elements, data.data()};
  std::vector<double> gram(static_cast<size_t>(K * K)), weights(static_cast<size_t>(K), 0.5);
  std::vector<float> sum(static_cast<size_t>(elements));
  void* const out[] = {sum.data()};
  count("gram of 2 gradients of a million", K * elements,
        [&] { cpu::project_gram(tensors, false, gram.data(), kOneThread); });
  count("combine 2 gradients of a million", K * elements,
        [&] { cpu::project_combine(tensors, 1, weights.data(), out, kOneThread); });
}

void fingerprint(int64_t elements) {
  const std::vector<float> values = normal(elements);
  uint64_t sums[2] = {0, 0};
  count("fingerprint of a million", elements,
        [&] { cpu::fingerprint(values.data(), 4, elements, sums, kOneThread); });
}

}  // namespace
}  // namespace fastforget

int main() {
  using namespace fastforget;
  std::printf("%s\n", cpu::simd_level());
  std::fflush(stdout);
  linear("linear 64 x 512 x 512", 64, 1, 512, 512);
  linear("tokens 8 x 64, 256 x 256", 8, 64, 256, 256);
  convolution("convolution 3 x 3, 64 channels at 16 x 16", 4, 64, 64, 16, 3, 1);
  convolution("convolution 3 x 3, 16 channels at 32 x 32", 4, 16, 16, 32, 3, 1);
  convolution("convolution 1 x 1, 64 to 256 channels at 8 x 8", 8, 64, 256, 8, 1, 1);
  convolution("depthwise 3 x 3, 64 channels at 16 x 16", 8, 64, 64, 16, 3, 64);
  affine(16, 64, 256);
  embedding(16, 64, 1000, 128);
  select_and_perturb(1'000'000);
  project(2, 1'000'000);
  fingerprint(1'000'000);
}
