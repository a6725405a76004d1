// The table of Fisher kernels of one instruction set. Included once by each fisher_<isa>.cpp, which
// defines FF_VECTOR_BYTES.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <type_traits>

#include "../fisher.h"
#include "half.h"

#include "isa_begin.h"

namespace fastforget::cpu::FF_ISA {
namespace {

// clang-format off: each needs the ones above it
#include "simd.h"
#include "fisher_patches.h"
#include "fisher_tile.h"
#include "fisher_panels.h"
#include "fisher_matmul.h"
#include "fisher_direct.h"
#include "fisher_affine.h"
#include "fisher_embedding.h"
// clang-format on

MatmulPlan matmul_plan(const MatmulFisher& f, int64_t threads) {
  return with_dtype(f.dtype, [&](auto x) { return MatmulKernel<decltype(x)>::plan(f, threads); });
}

void matmul_list(const MatmulFisher& f, const MatmulPlan& plan, void* lists) {
  with_dtype(f.dtype, [&](auto x) { MatmulKernel<decltype(x)>::list(f, plan, lists); });
}

void matmul_pack(const MatmulFisher& f, const MatmulPlan& plan, int64_t n0, int64_t n1,
                 void* packed, int64_t begin, int64_t end) {
  with_dtype(f.dtype,
             [&](auto x) { MatmulKernel<decltype(x)>::pack(f, plan, n0, n1, packed, begin, end); });
}

void matmul_accumulate(const MatmulFisher& f, const MatmulPlan& plan, int64_t n0, int64_t n1,
                       const void* lists, const void* packed, void* scratch, int64_t begin,
                       int64_t end) {
  with_dtype(f.dtype, [&](auto x) {
    MatmulKernel<decltype(x)>::accumulate(f, plan, n0, n1, lists, packed, scratch, begin, end);
  });
}

int64_t direct_bytes(const MatmulFisher& f) {
  return with_dtype(f.dtype, [&](auto x) { return DirectKernel<decltype(x)>::scratch_bytes(f); });
}

void direct(const MatmulFisher& f, void* scratch, int64_t begin, int64_t end) {
  with_dtype(f.dtype, [&](auto x) { DirectKernel<decltype(x)>::run(f, scratch, begin, end); });
}

void affine(const AffineFisher& f, int64_t begin, int64_t end) {
  with_dtype(f.dtype, [&](auto x) { AffineKernel<decltype(x)>::run(f, begin, end); });
}

void embedding(const EmbeddingFisher& f, void* scratch, int64_t begin, int64_t end) {
  with_dtype(f.dtype, [&](auto x) { EmbeddingKernel<decltype(x)>::run(f, scratch, begin, end); });
}

}  // namespace

extern const FisherKernels fisher_kernels;
const FisherKernels fisher_kernels = {matmul_plan,  matmul_list, matmul_pack, matmul_accumulate,
                                      direct_bytes, direct,      affine,      embedding};

}  // namespace fastforget::cpu::FF_ISA

#include "isa_end.h"
