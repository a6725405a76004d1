// The diagonal Fisher kernels, one table per instruction set (see dispatch.h); see ../fisher.h for
// what is computed.
//
// No kernel allocates or starts threads: the caller hands out ranges of work and scratch memory,
// and any split into ranges gives the same bits.
#pragma once

#include <cstdint>

#include "../fisher.h"

namespace fastforget::cpu {

// The samples that a kernel goes through: those with a weight. Others are left out of all work.
struct ListedSamples {
  const int64_t* samples = nullptr;  // [sample_count] indices into the batch
  int64_t sample_count = 0;
};

struct ListedMatmul : MatmulFisher, ListedSamples {
  // T = 1 needs no tile per sample: (g a)^2 = g^2 a^2, so the sum over samples is one matrix
  // product of squared operands (power 2), or of the operands themselves for the gradient (power
  // 1), per group.
  int flat_power = 0;  // 0: not flat
  int64_t flat_group = 0;
};

struct ListedAffine : AffineFisher, ListedSamples {};

// The positions of sample n, sorted by token, stand at order[n * T .. n * T + count[n]).
struct ListedEmbedding : EmbeddingFisher, ListedSamples {
  const int64_t* order = nullptr;  // [N, T]
  const int64_t* count = nullptr;  // [N]
};

// How a matrix kernel cuts its work.
//
// It lists the positions of each tap of a convolution once (`matmul_list_taps`). Then it works in
// two passes per chunk of samples [n0, n1): `matmul_pack` lays tiles of grad rows out for the
// register tile (a range of row tiles), and `matmul_accumulate` takes a range of units, a unit
// being some blocks of columns times one block of row tiles. It also writes the results, and where
// `overwrite` is set the chunk from n0 = 0 replaces what was there.
struct MatmulPlan {
  int64_t chunk;           // samples per chunk
  int64_t row_tiles;       // work items of matmul_pack
  int64_t units;           // work items of matmul_accumulate
  int64_t row_blocks;      // units per blocks of columns
  int64_t blocks;          // blocks of columns in all
  int64_t unit_blocks;     // blocks of columns per unit
  bool by_taps;            // a column group is a tap of a block of channels
  int64_t taps;            // 1 unless by_taps
  int64_t positions;       // panel rows per sample: T, or the positions of the input
  int64_t strip, strips;   // positions between two column groups, and how many such strips
  bool own_grad;           // units pack grad themselves: there is no matmul_pack
  int64_t tile_step;       // elements from one packed row tile to the next
  int64_t tap_list_bytes;  // one buffer, shared by all ranges and chunks
  int64_t packed_bytes;    // one buffer, shared by all ranges
  int64_t scratch_bytes;   // a buffer for each range running at once
};

struct FisherKernels {
  MatmulPlan (*matmul_plan)(const ListedMatmul&, int64_t threads);
  void (*matmul_list_taps)(const ListedMatmul&, const MatmulPlan&, void* tap_lists);
  void (*matmul_pack)(const ListedMatmul&, const MatmulPlan&, int64_t n0, int64_t n1, void* packed,
                      int64_t tile_begin, int64_t tile_end);
  void (*matmul_accumulate)(const ListedMatmul&, const MatmulPlan&, int64_t n0, int64_t n1,
                            const void* tap_lists, const void* packed, void* scratch,
                            int64_t unit_begin, int64_t unit_end);
  // Few channels per convolution group (depthwise). [begin, end) counts convolution groups, best a
  // multiple of 16 of them; scratch holds direct_bytes.
  int64_t (*direct_bytes)(const ListedMatmul&);
  void (*direct)(const ListedMatmul&, void* scratch, int64_t begin, int64_t end);
  void (*affine)(const ListedAffine&, int64_t p_begin, int64_t p_end);
  // scratch holds 8 bytes per feature of the range.
  void (*embedding)(const ListedEmbedding&, void* scratch, int64_t d_begin, int64_t d_end);
};

}  // namespace fastforget::cpu
