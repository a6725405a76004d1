// Fisher kernels for any machine: 16-byte vectors, which SSE2 and NEON have by definition.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <type_traits>

#include "../fisher.h"
#include "half.h"

#define FF_ISA generic
#define FF_VECTOR_BYTES 16
#include "fisher_isa.h"
