// Large pages for large results: a page fault for every four kilobytes would take longer than
// filling them. NumPy asks for the same.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "../check.h"

namespace fastforget {

inline void use_large_pages(const Tensor& t) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr size_t page = 4096, worthwhile = 4 << 20;
  const size_t bytes = static_cast<size_t>(t.numel()) * t.element_size();
  if (bytes < worthwhile) return;
  char* const begin = static_cast<char*>(t.mutable_data_ptr());
  const size_t skip = -reinterpret_cast<uintptr_t>(begin) % page;
  // A hint: where it is refused, nothing is lost.
  (void)madvise(begin + skip, (bytes - skip) / page * page, MADV_HUGEPAGE);
#endif
}

}  // namespace fastforget
