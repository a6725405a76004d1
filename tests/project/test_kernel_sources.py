"""Kernels include no header of PyTorch."""

import re
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "csrc" / "kernels"


def test_kernels_include_no_torch_header() -> None:
    if not KERNELS.is_dir():
        pytest.skip("the C++ sources are not here")
    sources = [path for path in KERNELS.rglob("*") if path.is_file()]
    assert len(sources) > 5
    found = {
        path.name: line
        for path in sources
        for line in re.findall(r'^\s*#\s*include\s*[<"].*', path.read_text(), re.MULTILINE)
        if re.search(r"torch|ATen|c10|pybind|Python\.h|bindings", line)
    }
    assert found == {}
