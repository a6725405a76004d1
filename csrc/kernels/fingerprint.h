// A fast, order-sensitive fingerprint of tensor contents: two sums, modulo 2^64, over all 32-bit
// words w at word index i of
//
//     (w + i * a + c) * (w ^ (i * b + d))        (32-bit operands, 64-bit product)
//
// with two sets of constants. Being a sum over elements it does not depend on how work is split,
// and it can be updated from the changed elements alone. It finds accidents (another checkpoint,
// another seed); it is not cryptographic. Elements narrower than four bytes count as one word each.
#pragma once

#include <cstdint>

namespace fastforget {

// a, b of the first sum, then of the second; likewise c, d.
constexpr uint32_t kFingerprintFactors[4] = {0x9e3779b1u, 0x85ebca77u, 0xc2b2ae3du, 0x27d4eb2fu};
constexpr uint32_t kFingerprintTerms[4] = {0x7f4a7c15u, 0xf39cc060u, 0x5ced93a1u, 0x165667b1u};

}  // namespace fastforget
