// The table of Fisher kernels of one instruction set. Included once by each fisher_<isa>.cpp, which
// defines FF_VECTOR_BYTES.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <type_traits>

#include "element.h"
#include "fisher_kernels.h"

#include "isa_begin.h"

namespace fastforget::cpu::FF_ISA {
namespace {

// clang-format off: each needs the ones above it
#include "simd.h"
#include "fisher_patches.h"
#include "fisher_tile.h"
#include "fisher_panels.h"
#include "fisher_matmul_plan.h"
#include "fisher_matmul_pack.h"
#include "fisher_matmul.h"
#include "fisher_direct.h"
#include "fisher_affine.h"
#include "fisher_embedding.h"
// clang-format on

MatmulPlan matmul_plan(const ListedMatmul& f, int64_t threads) {
  return with_dtype(f.dtype, [&](auto x) { return MatmulPlanner<decltype(x)>::plan(f, threads); });
}

void matmul_list_taps(const ListedMatmul& f, const MatmulPlan& plan, void* tap_lists) {
  with_dtype(f.dtype, [&](auto x) { MatmulPacking<decltype(x)>::list_taps(f, plan, tap_lists); });
}

void matmul_pack(const ListedMatmul& f, const MatmulPlan& plan, int64_t n0, int64_t n1,
                 void* packed, int64_t begin, int64_t end) {
  with_dtype(f.dtype, [&](auto x) {
    MatmulPacking<decltype(x)>::pack(f, plan, n0, n1, packed, begin, end);
  });
}

void matmul_accumulate(const ListedMatmul& f, const MatmulPlan& plan, int64_t n0, int64_t n1,
                       const void* tap_lists, const void* packed, void* scratch, int64_t begin,
                       int64_t end) {
  with_dtype(f.dtype, [&](auto x) {
    MatmulKernel<decltype(x)>::accumulate(f, plan, n0, n1, tap_lists, packed, scratch, begin, end);
  });
}

int64_t direct_bytes(const ListedMatmul& f) {
  return with_dtype(f.dtype, [&](auto x) { return DirectKernel<decltype(x)>::scratch_bytes(f); });
}

void direct(const ListedMatmul& f, void* scratch, int64_t begin, int64_t end) {
  with_dtype(f.dtype, [&](auto x) { DirectKernel<decltype(x)>::run(f, scratch, begin, end); });
}

void affine(const ListedAffine& f, int64_t begin, int64_t end) {
  with_dtype(f.dtype, [&](auto x) { AffineKernel<decltype(x)>::run(f, begin, end); });
}

void embedding(const ListedEmbedding& f, void* scratch, int64_t begin, int64_t end) {
  with_dtype(f.dtype, [&](auto x) { EmbeddingKernel<decltype(x)>::run(f, scratch, begin, end); });
}

}  // namespace

extern const FisherKernels fisher_kernels;
const FisherKernels fisher_kernels = {
    matmul_plan,  matmul_list_taps, matmul_pack, matmul_accumulate,
    direct_bytes, direct,           affine,      embedding};

}  // namespace fastforget::cpu::FF_ISA

#include "isa_end.h"
