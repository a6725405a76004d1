// PyTorch's threads for the kernels: torch.set_num_threads holds for them too.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "../../kernels/cpu/parallel.h"

namespace fastforget {

inline constexpr cpu::Parallel kTorchThreads{
    [](int64_t count, int64_t grain, cpu::Parallel::Range range, const void* work) {
      torch::stable::parallel_for(0, count, grain,
                                  [=](int64_t begin, int64_t end) { range(work, begin, end); });
    },
    []() -> int64_t { return torch::stable::get_num_threads(); }};

}  // namespace fastforget
