// As C++; see cuda_runtime.h.
#include "../../csrc/kernels/cuda/select_histogram.cu"
