// Products of bfloat16 on tensor cores.
#include "matmul_start_tensor.cuh"

namespace fastforget::cuda {

template cudaError_t start_tensor<Bf16>(const MatmulProblem&, int64_t, int64_t, int64_t,
                                        cudaStream_t);

}  // namespace fastforget::cuda
