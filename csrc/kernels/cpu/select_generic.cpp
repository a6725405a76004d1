// Select kernels for any machine: 16-byte vectors, which SSE2 and NEON have by definition.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "../select.h"
#include "half.h"
#include "scores.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define FF_ISA generic
#define FF_VECTOR_BYTES 16
#include "select_isa.h"
