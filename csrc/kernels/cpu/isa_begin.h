// Compiles what follows, up to isa_end.h, for the instruction set with vectors of FF_VECTOR_BYTES:
// 64 AVX-512 (F, DQ, BW, VL), 32 AVX2 with FMA, 16 what SSE2 and NEON have by definition. FF_ISA is
// its name, and that of its namespace. dispatch.cpp asks the processor for all that is named here.

#if FF_VECTOR_BYTES == 64
#define FF_ISA avx512
#if defined(__clang__)
#pragma clang attribute push(                                                           \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c,popcnt"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c,popcnt")
#endif
#elif FF_VECTOR_BYTES == 32
#define FF_ISA avx2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,popcnt")
#endif
#else
#define FF_ISA generic
#endif
