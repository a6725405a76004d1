"""Builds `fastforget._C`: one library on PyTorch's stable ABI, so that it serves later PyTorch releases too."""

from pathlib import Path

import pybind11
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

ROOT = Path(__file__).parent
TORCH_ABI = "2.10"  # oldest stable ABI with parallel_for; TORCH_TARGET_VERSION is its 0x0MMmm... form

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
                "-O3",
                "-g0",
                "-std=c++20",
                "-Wall",
                "-fvisibility=hidden",
                f"-ffile-prefix-map={ROOT}=.",
            ],
        )
    ],
    cmdclass={"build_ext": BuildExtension.with_options(use_ninja=True)},
)
