"""The library that `make cuda` builds: operators, registers, and the loops of matrix products. Needs no GPU."""

import ctypes
import os
import re
import subprocess
from pathlib import Path

import cuda_instructions
import pytest
import torch

import fastforget  # noqa: F401 - registers the operators

BUILD = os.environ.get("FASTFORGET_CUDA_BUILD")
pytestmark = pytest.mark.skipif(BUILD is None, reason="no build of the CUDA kernels was named, see `make cuda`")


def ptxas_reports() -> dict[str, str]:
    return {path.stem: path.read_text() for path in Path(BUILD or "").rglob("*.ptxas")}


def stand_in_for_streams(library: Path, folder: Path) -> None:
    """Define PyTorch's functions for streams: without CUDA it lacks them. Only calls need them, but all are bound."""
    nm = ["nm", "-D", "--undefined-only", str(library)]
    needed = subprocess.run(nm, check=True, capture_output=True, text=True)  # noqa: S603
    names = re.findall(r" U (aoti_torch_\w*cuda\w*)", needed.stdout)
    assert names
    source, made = folder / "streams.c", folder / "streams.so"
    source.write_text("".join(f"int {name}(void) {{ return 1; }}\n" for name in names))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", made, source], check=True)  # noqa: S603, S607
    ctypes.CDLL(str(made), mode=os.RTLD_GLOBAL)


def test_every_operator_has_a_cuda_kernel(tmp_path: Path) -> None:
    (library,) = Path(BUILD or "").rglob("_C_cuda*.so")
    if torch.version.cuda is None:
        stand_in_for_streams(library, tmp_path)
    ctypes.CDLL(str(library.resolve()))
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("fastforget::")]
    assert len(names) == 16
    without = [name for name in names if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")]
    assert without == []


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_no_kernel_spills_registers(architecture: str) -> None:
    found = ptxas_reports()
    assert "fisher_matmul" in found
    for name, text in found.items():
        kernels = re.findall(rf"Compiling entry function '(\S+)' for '{architecture}'", text)
        assert kernels, name
        assert set(re.findall(r"(\d+) bytes spill", text)) == {"0"}, name


# Instructions for each matrix product, by the tile of a block: what else a step takes is the same for all of them.
MOST = {"128, 128": 6.0, "128, 64": 10.0, "64, 64": 15.0}


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("name", ["bf16", "f16", "tf32"])
def test_loops_of_matrix_products(name: str, architecture: str) -> None:
    """Tensor cores wait for all that a loop does beside: no division, and no address that could be known before."""
    (made,) = Path(BUILD or "").rglob(f"cuda/fisher_matmul_{name}.o")
    found = cuda_instructions.counts(made, architecture)
    assert [count.kernel for count in found if count.divisions] == []
    streams = [count for count in found if count.kernel.startswith("stream_kernel")]
    assert len(streams) == 4 * len(MOST)  # every tile, and every layout of both operands
    for tile, most in MOST.items():
        these = {c.kernel: c.instructions / c.products for c in streams if f", {tile}, " in c.kernel}
        assert len(these) == 4
        assert {kernel: per for kernel, per in these.items() if per > most} == {}
