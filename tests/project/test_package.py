"""The examples in docstrings run, and importing the package needs no extra."""

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import fastforget

MODULES = [
    module.name
    for module in pkgutil.walk_packages(fastforget.__path__, "fastforget.")
    if module.name.rpartition(".")[2] not in {"__main__", "_C", "_C_cuda"}
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_public_function_has_an_example() -> None:
    functions = [item for name in fastforget.__all__ if inspect.isfunction(item := getattr(fastforget, name))]
    assert functions
    assert [item.__name__ for item in functions if ">>>" not in (item.__doc__ or "")] == []


def test_import_needs_no_extra() -> None:
    code = """
import sys
extras = "cryptography fastapi lightning matplotlib mlflow onnx onnxruntime openvino prometheus_client rich sklearn"
extras += " timm tqdm transformers typer"
for name in extras.split():
    sys.modules[name] = None  # makes importing it fail
import fastforget, fastforget.integrations, fastforget.serving
"""
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 (our own interpreter)
