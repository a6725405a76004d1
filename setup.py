"""Builds the compiled operators on PyTorch's stable ABI, so that one build serves later PyTorch releases too.

``fastforget.ops._C`` holds the schemas and the CPU kernels, ``fastforget.ops._C_cuda`` those for CUDA devices.
What decides:

FASTFORGET_CUDA: 1 builds ``_C_cuda``, without a GPU and with a CPU-only PyTorch too; 0 does not; by default
    it is built where nvcc is found and PyTorch was built for CUDA.
FASTFORGET_CUDA_ARCHS: compute capabilities, by default "80 90"; the last one comes as PTX too, for newer devices.
FASTFORGET_SANITIZE=1: addresses and undefined behaviour are checked at run time, see `make asan`.
FASTFORGET_EMULATION=1: ``_C`` runs the CUDA kernels, on the host, see `make emulation`.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
import torch
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

ROOT = Path(__file__).parent
TORCH_ABI = "2.10"  # oldest stable ABI with parallel_for; TORCH_TARGET_VERSION is its 0x0MMmm... form
CUDA_KERNELS, CUDA_BINDINGS = "csrc/kernels/cuda", "csrc/bindings/cuda"
EMULATION = os.environ.get("FASTFORGET_EMULATION") == "1"
WARNINGS = ["-Wall", "-Wno-unknown-pragmas", "-fvisibility=hidden", f"-ffile-prefix-map={ROOT}=."]

# What the compiler and the linker are told; benchmarks/instructions reads the same file.
FLAGS = json.loads((ROOT / "csrc" / "flags.json").read_text(encoding="utf-8"))
COMPILE, SANITIZE = FLAGS["compile"], []
HARDEN = FLAGS["harden"] + FLAGS.get(f"harden_{platform.machine()}", [])
LINK = FLAGS["link"] if sys.platform == "linux" else []  # options of ELF linkers
if os.environ.get("FASTFORGET_SANITIZE") == "1":
    # Python's own flags hold -fwrapv, with which a signed overflow would be no fault.
    COMPILE = ["-std=c++20", "-O1", "-g1", "-fno-omit-frame-pointer", "-fno-wrapv", "-D_GLIBCXX_ASSERTIONS"]
    HARDEN = []  # checked more thoroughly, by what does not know the checked variants of C functions
    SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def files(folder: str, *endings: str) -> list[str]:
    """Files below a folder, relative to here."""
    found = (path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.suffix in endings)
    return sorted(found)


def nvcc() -> Path | None:
    """The CUDA compiler: of CUDA_HOME, on the path, or from the packages that `make cuda` installs beside Python."""
    home, site = os.environ.get("CUDA_HOME"), Path(torch.__file__).parents[1]
    places = [Path(home) / "bin" / "nvcc"] if home else [Path(shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")]
    places += sorted(site.glob("nvidia/cu*/bin/nvcc"))
    return next((place.resolve() for place in places if place.exists()), None)


def toolkit_options() -> tuple[list[str], list[str]]:
    """Where nvcc itself looks for headers and libraries; it may be a link or a script far from them."""
    said = subprocess.run([str(nvcc()), "--dryrun", "x.cu"], check=False, capture_output=True, text=True)  # noqa: S603
    top = Path(re.search(r"^#\$ TOP=(.*)$", said.stderr, re.MULTILINE)[1].strip())
    return [str(top / "include")], [f"-L{folder}" for folder in (top / "lib64", top / "lib") if folder.is_dir()]


def wants_cuda() -> bool:
    """Whether to build the kernels for CUDA devices; never whether there is one."""
    wanted = os.environ.get("FASTFORGET_CUDA", "auto")
    if wanted not in {"0", "1", "auto"}:
        raise ValueError(f"FASTFORGET_CUDA must be 0, 1 or auto, got {wanted}")
    if wanted == "1" and nvcc() is None:
        raise RuntimeError("FASTFORGET_CUDA=1 needs nvcc: set CUDA_HOME, or put it on the path")
    return wanted == "1" or (wanted == "auto" and nvcc() is not None and torch.version.cuda is not None)


def architectures() -> list[str]:
    """The options of nvcc that name what to compile for."""
    named = os.environ.get("FASTFORGET_CUDA_ARCHS", "80 90").split()
    if not named:
        raise ValueError('FASTFORGET_CUDA_ARCHS must name compute capabilities, such as "80 90", got none')
    options = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in named]
    return [*options, f"-gencode=arch=compute_{named[-1]},code=compute_{named[-1]}"]


def compile_kernels(folder: Path) -> list[str]:
    """Compile csrc/kernels/cuda/*.cu, which include nothing of PyTorch, and check what ptxas says of each kernel."""
    compiler, jobs = nvcc(), int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))
    folder.mkdir(parents=True, exist_ok=True)
    headers = [ROOT / name for name in files("csrc/kernels", ".h", ".cuh")]

    def compiled(source: str) -> str:
        made, report = folder / f"{Path(source).stem}.o", folder / f"{Path(source).stem}.ptxas"
        host = ",".join(["-fPIC", "-fvisibility=hidden", *HARDEN])
        options = ["-std=c++17", "-O3", "-Xptxas", "-v", "-Xcompiler", host, "--extended-lambda"]
        command = [str(compiler), *options, *architectures(), "-c", str(ROOT / source), "-o", str(made)]
        newest = max(path.stat().st_mtime for path in [ROOT / source, ROOT / "setup.py", *headers])
        known = made.exists() and report.exists() and made.stat().st_mtime > newest
        # The report begins with the command: for other architectures it is another.
        if not (known and report.read_text().startswith(f"{command}\n")):
            done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
            if done.returncode:
                raise RuntimeError(f"nvcc failed on {source}:\n{done.stderr}")
            report.write_text(f"{command}\n{done.stderr}")
        spills = [int(number) for number in re.findall(r"(\d+) bytes spill", report.read_text())]
        if any(spills):
            raise RuntimeError(f"kernels of {source} spill registers, see {report}")
        return str(made)

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(compiled, files(CUDA_KERNELS, ".cu")))


class Build(BuildExtension):
    """Compiles the kernels for CUDA devices first; the extension then links them."""

    def build_extension(self, extension: CppExtension) -> None:
        """Build one extension."""
        if extension.name == "fastforget.ops._C_cuda":
            extension.extra_objects = compile_kernels(ROOT / self.build_temp / "cuda")
        super().build_extension(extension)


def library(name: str, sources: list[str], **more: list[object]) -> CppExtension:
    """An extension module of PyTorch's stable ABI."""
    macros = [
        ("TORCH_TARGET_VERSION", "0x020a000000000000"),
        ("FASTFORGET_TORCH_ABI", f'"{TORCH_ABI}"'),
        *more.pop("define_macros", []),
    ]
    return CppExtension(
        name,
        sources,
        depends=files("csrc", ".h", ".cuh", ".cu"),
        include_dirs=[pybind11.get_include(), *more.pop("include_dirs", [])],
        define_macros=macros,
        extra_compile_args=[*COMPILE, *HARDEN, *SANITIZE, *WARNINGS],
        extra_link_args=[*SANITIZE, *LINK, *more.pop("extra_link_args", [])],
        **more,
    )


host = [name for name in files("csrc", ".cpp") if not name.startswith(CUDA_BINDINGS)]
if EMULATION:
    shared = ["csrc/bindings/library.cpp", "csrc/bindings/module.cpp"]
    extensions = [
        library(
            "fastforget.ops._C",
            [
                *shared,
                *files("csrc/kernels/cpu", ".cpp"),
                *files("tests/emulation", ".cpp"),
                *files(CUDA_BINDINGS, ".cpp"),
            ],
            define_macros=[("FASTFORGET_EMULATION", "1")],
            include_dirs=[str(ROOT / "tests/emulation")],
        )
    ]
else:
    extensions = [library("fastforget.ops._C", host)]
if wants_cuda() and not EMULATION:
    includes, libraries = toolkit_options()
    # Where PyTorch keeps the streams; a CPU-only one has no such library, and the symbol stays open.
    streams = ["-Wl,--no-as-needed", "-ltorch_cuda"] if torch.version.cuda else []
    extensions.append(
        library(
            "fastforget.ops._C_cuda",
            files(CUDA_BINDINGS, ".cpp"),
            define_macros=[("USE_CUDA", "1")],
            include_dirs=includes,
            # The static runtime: which shared one PyTorch brings depends on its build, the driver is the same.
            extra_link_args=[*streams, *libraries, "-lcudart_static", "-ldl", "-lrt", "-lpthread"],
        )
    )

setup(ext_modules=extensions, cmdclass={"build_ext": Build.with_options(use_ninja=True)})
