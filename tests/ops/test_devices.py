"""Where the kernels are: the library for CUDA devices, and what is said of tensors that no kernel serves."""

import importlib.machinery
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastforget import ops
from fastforget.classifier.devices import check_device
from fastforget.ops import library


def on(device: str) -> Any:
    """Something with a device, which this machine need not have."""
    return SimpleNamespace(device=torch.device(device))


def with_kernels(monkeypatch: pytest.MonkeyPatch, built: bool) -> None:
    monkeypatch.setattr(library, "_cuda_libraries", ["somewhere"] if built else [])


def test_a_cuda_tensor_without_cuda_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    with_kernels(monkeypatch, False)
    assert not ops.cuda_built()
    with pytest.raises(NotImplementedError) as caught:
        check_device("`fc.weight`", on("cuda:0"))
    assert str(caught.value) == (
        "`fc.weight` is on cuda:0; this build of fastforget has no CUDA kernels: build it with FASTFORGET_CUDA=1, "
        "see README"
    )


def test_a_cuda_tensor_with_cuda_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    with_kernels(monkeypatch, True)
    assert ops.cuda_built()
    check_device("`fc.weight`", on("cuda:1"))


@pytest.mark.parametrize(("built", "kinds"), [(False, "the CPU"), (True, "the CPU and CUDA devices")])
@pytest.mark.parametrize("device", ["meta", "mps"])
def test_other_devices(device: str, built: bool, kinds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_kernels(monkeypatch, built)
    check_device("`x`", on("cpu"))
    with pytest.raises(NotImplementedError, match=f"`x` is on {device}.*; this build .* has kernels for {kinds} only"):
        check_device("`x`", on(device))


class Loading:
    """Stands in for what loading depends on, and notes what is loaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, path: str | None, available: bool) -> None:
        self.asked, self.paths = 0, list[str]()

        def device_count() -> int:
            self.asked += 1
            return int(available)

        monkeypatch.setattr(library, "_cuda_libraries", [])
        monkeypatch.setattr(library, "_cuda_path", lambda: path)
        monkeypatch.setattr(torch.cuda, "device_count", device_count)
        monkeypatch.setattr(torch.ops, "load_library", self.paths.append)


def test_loads_once_where_it_is_built_and_there_is_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    loading = Loading(monkeypatch, path="_C_cuda.so", available=True)
    library._load_cuda()
    library._load_cuda()
    assert loading.paths == ["_C_cuda.so"]
    assert ops.cuda_built()


def test_not_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    loading = Loading(monkeypatch, path="_C_cuda.so", available=False)
    library._load_cuda()
    assert loading.paths == []
    assert not ops.cuda_built()


def test_where_it_is_not_built_nobody_asks_for_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    loading = Loading(monkeypatch, path=None, available=True)
    library._load_cuda()
    assert (loading.asked, loading.paths) == (0, [])


def test_a_library_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "_C_cuda.so"
    file.write_bytes(b"not a library")
    monkeypatch.setattr(library, "_cuda_libraries", [])
    monkeypatch.setattr(library, "_cuda_path", lambda: str(file))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ImportError, match=r"_C_cuda\.so, do not fit PyTorch .* build them again with"):
        library._load_cuda()
    assert not ops.cuda_built()


def test_finds_the_file_beside_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / f"_C_cuda{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    file.write_bytes(b"")
    monkeypatch.setattr("fastforget.ops.__path__", [str(tmp_path)])
    assert library._cuda_path() == str(file)
    file.unlink()
    importlib.invalidate_caches()
    assert library._cuda_path() is None


def test_import_creates_no_context() -> None:
    code = "import fastforget, torch; assert not torch.cuda.is_initialized()"
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 (our own interpreter)
