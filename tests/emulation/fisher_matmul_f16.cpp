// As C++; see cuda_runtime.h.
#include "../../csrc/kernels/cuda/fisher_matmul_f16.cu"
