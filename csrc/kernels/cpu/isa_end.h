// The end of what isa_begin.h began.

#undef FF_ISA
#if FF_VECTOR_BYTES > 16
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
