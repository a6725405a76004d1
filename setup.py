"""Builds `fastforget._C`: one library on PyTorch's stable ABI, so that it serves later PyTorch releases too.

With FASTFORGET_SANITIZE=1 it checks addresses and undefined behaviour while it runs, and aborts at the first fault; see
`make asan`.
"""

import os
from pathlib import Path

import pybind11
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

ROOT = Path(__file__).parent
TORCH_ABI = "2.10"  # oldest stable ABI with parallel_for; TORCH_TARGET_VERSION is its 0x0MMmm... form

OPTIMISE, SANITIZE = ["-O3", "-g0"], []
if os.environ.get("FASTFORGET_SANITIZE") == "1":
    # Python's own flags hold -fwrapv, with which a signed overflow would be no fault.
    OPTIMISE = ["-O1", "-g1", "-fno-omit-frame-pointer", "-fno-wrapv", "-D_GLIBCXX_ASSERTIONS"]
    SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

sources = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*.cpp"))
headers = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*.h"))

setup(
    ext_modules=[
        CppExtension(
            "fastforget._C",
            sources,
            depends=headers,
            include_dirs=[pybind11.get_include()],
            define_macros=[
                ("TORCH_TARGET_VERSION", "0x020a000000000000"),
                ("FASTFORGET_TORCH_ABI", f'"{TORCH_ABI}"'),
            ],
            extra_compile_args=[
                *OPTIMISE,
                *SANITIZE,
                "-std=c++20",
                "-Wall",
                "-fvisibility=hidden",
                f"-ffile-prefix-map={ROOT}=.",
            ],
            extra_link_args=SANITIZE,
        )
    ],
    cmdclass={"build_ext": BuildExtension.with_options(use_ninja=True)},
)
