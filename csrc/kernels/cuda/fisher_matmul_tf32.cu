// Products of tf32 on tensor cores.
#include "matmul_start_tensor.cuh"

namespace fastforget::cuda {

template cudaError_t start_tensor<float>(const MatmulProblem&, int64_t, int64_t, int64_t,
                                         cudaStream_t);

}  // namespace fastforget::cuda
