// Asks the processor for its instruction sets and hands out the tables compiled for the best one.
#include "dispatch.h"

#include <cstdlib>
#include <cstring>

namespace fastforget::cpu {

namespace generic {
extern const FisherKernels fisher_kernels;
extern const ProjectKernels project_kernels;
extern const SelectKernels select_kernels;
}  // namespace generic
#if defined(__x86_64__)
namespace avx2 {
extern const FisherKernels fisher_kernels;
extern const ProjectKernels project_kernels;
extern const SelectKernels select_kernels;
}  // namespace avx2
namespace avx512 {
extern const FisherKernels fisher_kernels;
extern const ProjectKernels project_kernels;
extern const SelectKernels select_kernels;
}  // namespace avx512
#endif

namespace {

enum Level { kGeneric, kAvx2, kAvx512 };
constexpr const char* kNames[] = {"generic", "avx2", "avx512"};

// Every instruction set that isa_begin.h names.
Level supported() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c") && __builtin_cpu_supports("popcnt");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    return kAvx512;
  }
  if (avx2) return kAvx2;
#endif
  return kGeneric;
}

// FASTFORGET_SIMD can lower the level (to test, or to reproduce another machine's bits), not raise
// it.
Level choose() {
  const Level best = supported();
  const char* wanted = std::getenv("FASTFORGET_SIMD");
  for (int level = kGeneric; wanted && level < best; ++level)
    if (std::strcmp(wanted, kNames[level]) == 0) return Level(level);
  return best;
}

Level level() {
  static const Level chosen = choose();
  return chosen;
}

}  // namespace

const char* simd_level() { return kNames[level()]; }

#if defined(__x86_64__)
#define FF_CHOOSE(table) \
  (level() == kAvx512 ? avx512::table : level() == kAvx2 ? avx2::table : generic::table)
#else
#define FF_CHOOSE(table) generic::table
#endif

const FisherKernels& fisher_kernels() { return FF_CHOOSE(fisher_kernels); }
const ProjectKernels& project_kernels() { return FF_CHOOSE(project_kernels); }
const SelectKernels& select_kernels() { return FF_CHOOSE(select_kernels); }

}  // namespace fastforget::cpu
