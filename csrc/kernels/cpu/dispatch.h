// Which table of kernels runs: that of the best instruction set the processor has, or of the one
// that FASTFORGET_SIMD names. Chosen once per process.
#pragma once

#include "fisher_kernels.h"
#include "project_kernels.h"
#include "select_kernels.h"

namespace fastforget::cpu {

// "avx512", "avx2" or "generic".
const char* simd_level();

const FisherKernels& fisher_kernels();
const ProjectKernels& project_kernels();
const SelectKernels& select_kernels();

}  // namespace fastforget::cpu
