"""The guide docs/guide/compare.md: its example runs as written, and its table has every key."""

import re
from pathlib import Path

import numpy as np
import pytest

from fastforget import compare
from fastforget.comparison.config import KEYS
from fastforget.comparison.measures import MEASURES, SHOWN
from fastforget.demo.data import load_digits

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "compare.md"

if not PAGE.exists():
    pytest.skip("the pages are not part of this distribution", allow_module_level=True)


@pytest.mark.filterwarnings("ignore::fastforget.ShallowForgettingWarning")  # the features of so small a network
def test_the_example_runs_as_written(folder: Path) -> None:
    for _, text in re.findall(r"^```(python|toml)\n(# .*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE):
        Path(text.partition("\n")[0].removeprefix("# ")).write_text(text)
    data = load_digits()
    for name, (x, y) in {"train": (data.x_train, data.y_train), "test": (data.x_test, data.y_test)}.items():
        np.savez(folder / f"{name}.npz", inputs=x.numpy(), targets=y.numpy())
    found = compare("comparison.toml")
    assert not found.failures
    assert found.summaries["retrained"]["average gap"].mean == 0
    assert found.summaries["one_shot"]["average gap"].mean < 0.05
    assert found.summaries["fine_tune"]["forget accuracy"].mean > 0.5
    written = set(re.findall(r"^\| `([\w./]+)` \| (?!.*\bkey\b)", PAGE.read_text("utf-8"), re.MULTILINE))
    assert {path.name for path in (folder / "comparison").iterdir()} <= {name.rstrip("/") for name in written}


def test_the_table_has_every_key() -> None:
    text = PAGE.read_text("utf-8").partition("## The keys")[2].partition("## Methods")[0]
    named = {name for line in text.splitlines() for name in re.findall(r"`([\w.]+)`", line.partition(" | ")[0])}
    tables = {"model", "training", "data", "forget", "methods", "audit"}
    keys = {f"{table}.{key}" if table else key for table, entries in KEYS.items() for key in entries} - tables
    assert named - {"training", "methods"} == keys


def test_what_is_shown_by_default_is_explained() -> None:
    text = PAGE.read_text("utf-8").partition("## Reading the table")[2]
    for name in SHOWN:
        title = MEASURES[name].title
        explained = {"forget": "accuracies", "remain": "accuracies", "test": "accuracies"}.get(title, title)
        assert re.sub(r"again \d+", "again k", explained) in text
