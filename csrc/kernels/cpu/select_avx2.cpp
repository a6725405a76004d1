// Select kernels for AVX2 and FMA; empty where the compiler does not target x86.
#if defined(__x86_64__)
#define FF_VECTOR_BYTES 32
#include "select_isa.h"
#endif
