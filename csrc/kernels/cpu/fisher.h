// The diagonal Fisher on the CPU; see ../fisher.h for what is computed.
#pragma once

#include <cstdint>

#include "../fisher.h"
#include "parallel.h"

namespace fastforget::cpu {

void fisher_linear(const MatmulFisher&, const Parallel&);

// `groups` convolution groups, one after the other in the results; the arguments are those of the
// first.
void fisher_convolution(const MatmulFisher&, int64_t groups, const Parallel&);

void fisher_affine(const AffineFisher&, const Parallel&);

// `padding` is a token that has no gradient, or negative.
void fisher_embedding(const EmbeddingFisher&, int64_t padding, const Parallel&);

}  // namespace fastforget::cpu
