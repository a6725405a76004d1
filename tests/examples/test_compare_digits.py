"""The example of a comparison runs, here with one seed and shorter training."""

import sys
from pathlib import Path

import pytest

from fastforget import compare
from fastforget.comparison.config import read_config

EXAMPLE = Path(__file__).parents[2] / "examples" / "compare_digits.toml"

if not EXAMPLE.exists():
    pytest.skip("the examples are not part of this distribution", allow_module_level=True)


def test_the_configuration_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(EXAMPLE.parent), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    config, folder = read_config(EXAMPLE)
    assert folder == EXAMPLE.parent
    assert len(config["seeds"]) >= 2
    found = compare({**config, "seeds": [0], "training": {"epochs": 10}}, output=tmp_path / "output")
    assert not found.failures
    assert len(found.rows) == 3 + len(config["methods"])
    gaps = {method: measures["average gap"].mean for method, measures in found.summaries.items()}
    assert gaps["retrained"] == 0
    for method in ("one-shot, 16 images", "learn to unlearn", "output layer anew"):
        assert gaps[method] < gaps["original"] / 5
