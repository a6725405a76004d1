// As C++; see cuda_runtime.h.
#include "../../csrc/kernels/cuda/mask.cu"
