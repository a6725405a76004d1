// Instruction set, chosen once per process: the best the processor has, or FASTFORGET_SIMD.
#pragma once

#include "../fisher.h"
#include "../project.h"
#include "../select.h"

namespace fastforget::cpu {

// "avx512", "avx2" or "generic".
const char* simd_level();

const FisherKernels& fisher_kernels();
const ProjectKernels& project_kernels();
const SelectKernels& select_kernels();

}  // namespace fastforget::cpu
