// How a kernel runs work on several threads. Kernels start no threads of their own: the caller
// hands in a way to run ranges of work items, and results do not depend on how it cuts them.
#pragma once

#include <cstdint>

namespace fastforget::cpu {

struct Parallel {
  using Range = void (*)(const void* work, int64_t begin, int64_t end);

  // Calls range(work, begin, end) for ranges that together are [0, count), several at once where
  // there are threads for them. No range but the last has fewer than `grain` items.
  void (*run)(int64_t count, int64_t grain, Range range, const void* work);
  int64_t (*threads)();

  // Calls work(begin, end) for such ranges.
  template <class Work>
  void operator()(int64_t count, int64_t grain, const Work& work) const {
    const auto range = [](const void* context, int64_t begin, int64_t end) {
      (*static_cast<const Work*>(context))(begin, end);
    };
    run(count, grain, range, &work);
  }
};

}  // namespace fastforget::cpu
