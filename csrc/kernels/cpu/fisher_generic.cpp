// Fisher kernels for any machine: 16-byte vectors, which SSE2 and NEON have by definition.
#define FF_VECTOR_BYTES 16
#include "fisher_isa.h"
