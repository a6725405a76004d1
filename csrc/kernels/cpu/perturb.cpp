// One read of scores; parameter and direction are touched only in blocks that hold a selected
// element, so a sparse selection moves little more than the scores. Bound by memory bandwidth.
#include "../perturb.h"

#include <algorithm>

#include "half.h"
#include "scores.h"

namespace fastforget {
namespace {

using cpu::from_key;
using cpu::narrow;
using cpu::widen;
using cpu::with_score_type;

constexpr int64_t kBlock = 256;

template <class P, class S>
struct Perturb {
  static int64_t run(const PerturbChunk& chunk, uint64_t threshold, int64_t cut, double alpha,
                     int64_t* indices, void* old) {
    P* parameter = static_cast<P*>(chunk.parameter);
    const S* direction = static_cast<const S*>(chunk.direction);
    const S* scores = static_cast<const S*>(chunk.scores.data);
    const S limit = from_key<S>(static_cast<typename cpu::Key<S>::Bits>(threshold));
    const S step = static_cast<S>(alpha);
    const int64_t ties = std::clamp<int64_t>(cut - chunk.scores.position, 0, chunk.scores.size);
    int64_t count = 0;
    for (int64_t begin = 0; begin < chunk.scores.size; begin += kBlock) {
      const int64_t end = std::min(begin + kBlock, chunk.scores.size);
      int32_t candidates = 0;
      for (int64_t i = begin; i < end; ++i) candidates += scores[i] >= limit;
      if (candidates == 0) continue;
      for (int64_t i = begin; i < end; ++i) {
        if (!(scores[i] > limit || (i < ties && scores[i] == limit))) continue;
        indices[count] = chunk.offset + i;
        static_cast<P*>(old)[count] = parameter[i];
        parameter[i] = narrow<P>(static_cast<S>(widen(parameter[i])) + step * direction[i]);
        ++count;
      }
    }
    return count;
  }
};

template <class Word>
void write(void* parameter, const int64_t* indices, const void* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    static_cast<Word*>(parameter)[indices[i]] = static_cast<const Word*>(values)[i];
}

}  // namespace

const PerturbKernels& perturb_kernels_cpu() {
  static const PerturbKernels kernels = {
      [](DType parameter, DType scores, const PerturbChunk& chunk, uint64_t threshold, int64_t cut,
         double alpha, int64_t* indices, void* old) {
        return with_score_type(scores, [&](auto s) {
          using S = decltype(s);
          switch (parameter) {
            case DType::f64:
              return Perturb<double, S>::run(chunk, threshold, cut, alpha, indices, old);
            case DType::bf16:
              return Perturb<cpu::BFloat16, S>::run(chunk, threshold, cut, alpha, indices, old);
            case DType::f16:
              return Perturb<cpu::Half, S>::run(chunk, threshold, cut, alpha, indices, old);
            default:
              return Perturb<float, S>::run(chunk, threshold, cut, alpha, indices, old);
          }
        });
      },
      [](int element_size, void* parameter, const int64_t* indices, const void* values,
         int64_t count) {
        switch (element_size) {
          case 2:
            return write<uint16_t>(parameter, indices, values, count);
          case 4:
            return write<uint32_t>(parameter, indices, values, count);
          default:
            return write<uint64_t>(parameter, indices, values, count);
        }
      }};
  return kernels;
}

}  // namespace fastforget
