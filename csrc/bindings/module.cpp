// The Python module `fastforget.ops._C`: importing it registers the operators; it offers build
// facts only.
#include <pybind11/pybind11.h>

#include "../kernels/cpu/dispatch.h"

PYBIND11_MODULE(_C, m) {
  m.doc() = "fastforget's compiled operators (torch.ops.fastforget) and how they were built.";
  m.def("simd_level", &fastforget::cpu::simd_level,
        "Instruction set in use: 'avx512', 'avx2' or 'generic'.");
  m.attr("compiler") = __VERSION__;
#if defined(FASTFORGET_EMULATION)
  m.attr("emulation") = true;
#else
  m.attr("emulation") = false;
#endif
  m.attr("torch_abi") = FASTFORGET_TORCH_ABI;
}
