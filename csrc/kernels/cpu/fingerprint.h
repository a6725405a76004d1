// Fingerprints of tensor contents on the CPU; see ../fingerprint.h for what is computed.
#pragma once

#include <cstdint>

#include "parallel.h"

namespace fastforget::cpu {

// sums[0] and sums[1] of a contiguous tensor with elements of 1, 2, 4, 8 or 16 bytes.
void fingerprint(const void* data, int element_size, int64_t elements, uint64_t* sums,
                 const Parallel&);

}  // namespace fastforget::cpu
