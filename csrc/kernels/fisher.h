// Diagonal Fisher kernels: signatures of every backend.
//
// Every kernel accumulates, for each group g of per-sample weights w[g, n],
//
//     fisher[g]   += sum_n w[g, n] * c_n * c_n        (element-wise square)
//     gradient[g] += sum_n w[g, n] * c_n              (optional)
//
// where c_n is the gradient of sample n's loss with respect to one parameter. c_n only ever exists
// as a tile in registers or L1; it is never written to memory as a whole.
//
// Shape alphabet: G groups of weights, N samples, T positions (time or space), O / I features out
// and in, P parameters. Strides are counted in elements. No kernel allocates, checks or starts
// threads: the caller hands out ranges of work and scratch memory, and any split into ranges gives
// the same bits.
#pragma once

#include <cstdint>

#include "types.h"

namespace fastforget {

// What a convolution reads as the "input" operand: columns of the implicit im2col matrix.
// One- and two-dimensional convolutions are three-dimensional ones with leading sizes of one.
struct Patches {
  int64_t channels;  // channels per group
  int64_t size[3];   // D, H, W of the input
  int64_t out[3];    // D, H, W of the positions; T = product
  int64_t kernel[3];
  int64_t stride[3];
  int64_t padding[3];
  int64_t dilation[3];
  int64_t in_stride[4];  // element strides of channel, D, H, W
};

// c_n[o, i] = sum_t grad[n, t, o] * input[n, t, i], for the samples listed in `samples`.
struct MatmulFisher {
  DType dtype;             // of grad and input
  int64_t G, N, T, O, I;   // N = number of listed samples
  const int64_t* samples;  // [N] indices into the batch
  const void* grad;
  int64_t grad_stride[3];  // n, t, o
  const void* input;
  int64_t input_stride[3];  // n, t, i; for patches only n is used
  const Patches* patches;   // null: input is a strided matrix
  const void* weights;      // [G, batch] in the accumulation type
  int64_t batch;
  void* fisher;          // [G, O, I], or null
  void* gradient;        // [G, O, I], or null
  int64_t group_stride;  // elements between two groups g of fisher and gradient
  bool overwrite;        // results hold nothing yet: `matmul_accumulate` writes where n0 is 0
  // The bias beside the weight, whose c_n is sum_t grad[n, t, o]; whoever packs grad adds to them.
  void* bias_fisher;    // [G, O], or null
  void* bias_gradient;  // [G, O], or null
  int64_t bias_stride;  // elements between two groups g of these
  // T = 1 needs no tile per sample: (g a)^2 = g^2 a^2, so the sum over samples is one matrix
  // product of squared operands (power 2), or of the operands themselves for the gradient (power
  // 1), per group.
  int flat_power;  // 0: not flat
  int64_t flat_group;
  // Grouped convolutions, `direct` only: elements from one convolution group to the next.
  int64_t conv_grad_stride, conv_input_stride;
};

// Scale and shift of a norm, a bias, a broadcast sum or product, over a [N, A, P, B] view of grad:
//     shift: c_n[p] = sum_{a,b} grad[n,a,p,b]
//     scale: c_n[p] = sum_{a,b} grad[n,a,p,b] * (input[n,a,p,b] - mean[n,a,p]) * rstd[n,a,p]
struct AffineFisher {
  DType dtype;
  int64_t G, N, A, P, B;
  const int64_t* samples;
  const void* grad;
  int64_t grad_stride[4];
  const void* input;  // null: no scale
  int64_t input_stride[4];
  const void* mean;  // accumulation type; null: 0
  int64_t mean_stride[3];
  const void* rstd;  // accumulation type; null: 1
  int64_t rstd_stride[3];
  const void* weights;  // [G, batch]
  int64_t batch;
  void* scale_fisher;  // each [G, P] or null
  void* scale_gradient;
  void* shift_fisher;
  void* shift_gradient;
};

// c_n[v, d] = sum of grad[n, t, d] over the positions t whose token is v.
// The positions of sample n, sorted by token, stand at order[n * T .. n * T + count[n]).
struct EmbeddingFisher {
  DType dtype;
  int64_t G, N, T, V, D;
  const int64_t* samples;
  const void* grad;
  int64_t grad_stride[3];  // n, t, d
  const int64_t* tokens;   // [batch, T]
  const int64_t* order;    // [batch, T]
  const int64_t* count;    // [batch]
  const void* weights;
  int64_t batch;
  void* fisher;  // [G, V, D]
  void* gradient;
};

// One set of kernels, compiled once per instruction set (see cpu/dispatch.cpp).
//
// The matrix kernel lists the positions of each tap of a convolution once (`matmul_list`), then
// works in two passes per chunk of samples [n0, n1): `matmul_pack` lays tiles of grad rows out for
// the register tile (a range of row tiles), then `matmul_accumulate` takes a range of units, a unit
// being some blocks of columns times one block of row tiles.
struct MatmulPlan {
  int64_t chunk;          // samples per chunk
  int64_t row_tiles;      // work items of matmul_pack
  int64_t units;          // work items of matmul_accumulate
  int64_t row_blocks;     // units per blocks of columns
  int64_t blocks;         // blocks of columns in all
  int64_t unit_blocks;    // blocks of columns per unit
  bool listed;            // a column group is a tap of a block of channels
  int64_t taps;           // 1 unless listed
  int64_t positions;      // panel rows per sample: T, or the positions of the input
  int64_t strip, strips;  // positions between two column groups, and how many such strips
  bool own_grad;          // units pack grad themselves: there is no matmul_pack
  int64_t tile_step;      // elements from one packed row tile to the next
  int64_t list_bytes;     // one buffer, shared by all ranges and chunks
  int64_t packed_bytes;   // one buffer, shared by all ranges
  int64_t scratch_bytes;  // a buffer for each range running at once
};

struct FisherKernels {
  MatmulPlan (*matmul_plan)(const MatmulFisher&, int64_t threads);
  void (*matmul_list)(const MatmulFisher&, const MatmulPlan&, void* lists);
  void (*matmul_pack)(const MatmulFisher&, const MatmulPlan&, int64_t n0, int64_t n1, void* packed,
                      int64_t tile_begin, int64_t tile_end);
  void (*matmul_accumulate)(const MatmulFisher&, const MatmulPlan&, int64_t n0, int64_t n1,
                            const void* lists, const void* packed, void* scratch,
                            int64_t unit_begin, int64_t unit_end);
  // Few channels per convolution group (depthwise); [begin, end) counts convolution groups, best a
  // multiple of 16 of them. scratch holds direct_bytes.
  int64_t (*direct_bytes)(const MatmulFisher&);
  void (*direct)(const MatmulFisher&, void* scratch, int64_t begin, int64_t end);
  void (*affine)(const AffineFisher&, int64_t p_begin, int64_t p_end);
  void (*embedding)(const EmbeddingFisher&, void* scratch, int64_t d_begin, int64_t d_end);
};

}  // namespace fastforget
