// Every CUDA kernel, as C++; see cuda_runtime.h.
#include "../../csrc/kernels/cuda/fingerprint.cu"
#include "../../csrc/kernels/cuda/perturb.cu"
#include "../../csrc/kernels/cuda/project.cu"
#include "../../csrc/kernels/cuda/select.cu"
