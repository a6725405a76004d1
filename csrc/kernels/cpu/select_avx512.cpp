// Select kernels for AVX-512 (F, DQ, BW, VL); empty where the compiler does not target x86.
#if defined(__x86_64__)
#define FF_VECTOR_BYTES 64
#include "select_isa.h"
#endif
