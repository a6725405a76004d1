// The projection kernels, compiled once per instruction set.
#include "project_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "element.h"

#define FF_VECTOR_BYTES 16
#include "project_isa.h"
#if defined(__x86_64__)
#undef FF_VECTOR_BYTES
#define FF_VECTOR_BYTES 32
#include "project_isa.h"
#undef FF_VECTOR_BYTES
#define FF_VECTOR_BYTES 64
#include "project_isa.h"
#endif
