"""The demonstration runs from end to end, here with fewer epochs."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from fastforget.codes.mnemonic_codes import MnemonicCodes
from fastforget.demo import run
from fastforget.demo.picture import draw_picture
from fastforget.demo.results import DemoResult, ForgottenClass, TrainedModel
from fastforget.demo.table import again_table, results_table


def example_result() -> DemoResult:
    original = torch.diag(torch.full((3,), 8)) + torch.ones(3, 3, dtype=torch.int64)
    after = original.clone()
    after[1] = torch.tensor([10, 0, 1])
    names = ("red", "green", "blue")
    forgotten = [ForgottenClass(1, after, 1234, 0.03, 12.34), ForgottenClass(2, original, 1234, 0.03, 20.0)]
    again = {"original": [(0, 0.8), (5, 0.9)], "forgotten": [(0, 0.0), (5, 0.25)], "retrained": [(0, 0.0), (5, 0.125)]}
    return DemoResult("colours", names, TrainedModel(original, 3.0), forgotten, TrainedModel(after, 4.5), again)


def test_table_says_what_was_measured() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(results_table(example_result()))
    assert isinstance(console.file, io.StringIO)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["green", "81.8", "→", "0.0", "81.8", "→", "81.8", "1,234", "(3.0%)", "12.3"] in lines
    assert ["mean", "81.8", "→", "40.9", "81.8", "→", "81.8", "1,234", "(3.0%)", "16.2"] in lines
    assert ["green:", "retrained", "81.8", "→", "0.0", "81.8", "→", "81.8", "all", "4,500"] in lines


def test_table_of_learning_again() -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(again_table(example_result()))
    assert isinstance(console.file, io.StringIO)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["model", "0", "5"] in lines
    assert ["forgotten", "0.0", "25.0"] in lines
    assert ["retrained", "0.0", "12.5"] in lines


def test_json_round_trip() -> None:
    content = json.loads(json.dumps(example_result().as_json()))
    assert [row["name"] for row in content["forgotten"]] == ["green", "blue"]
    assert content["forgotten"][0]["forget_after"] == 0
    assert content["forgotten"][0]["remain_after"] == pytest.approx(18 / 22)
    assert content["retrained"]["without"] == 1
    assert content["again"]["forgotten"] == [[0, 0.0], [5, 0.25]]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_picture(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"demo.{suffix}"
    draw_picture(example_result(), path)
    if suffix == "png":
        with Image.open(path) as picture:
            assert picture.width > 1500
            colours = picture.convert("RGB").getcolors(maxcolors=2**24)
            assert colours is not None
            assert len(colours) > 50
    else:
        assert "After forgetting green" in path.read_text()


def test_demo_forgets_and_undoes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run.RECIPES, "digits", run.Recipe(epochs=8, batch_size=64))
    console = Console(file=io.StringIO(), width=80)
    result = run.run_demo(output=tmp_path / "demo.png", classes=[7, 0], progress=False, console=console)
    rows = result.as_json()["forgotten"]
    assert [row["class"] for row in rows] == [7, 0]
    for row in rows:
        assert row["forget_before"] > 0.9
        assert row["forget_after"] < 0.2
        assert row["remain_after"] > row["remain_before"] - 0.1
        assert 0 < row["parameters_changed"] < 77754
        assert row["milliseconds"] > 0
    assert result.as_json()["retrained"]["forget"] == 0
    again = {name: dict(curve) for name, curve in result.again.items()}
    assert again["original"][0] > 0.9
    assert again["forgotten"][5] <= again["retrained"][5] + 0.1
    assert (tmp_path / "demo.png").stat().st_size > 10_000
    assert isinstance(console.file, io.StringIO)
    assert "every bit of the model was back" in " ".join(console.file.getvalue().split())


def test_an_undo_that_is_not_exact_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zero with the wrong sign is enough."""
    model = nn.Linear(8, 10, bias=False)
    nn.init.zeros_(model.weight)

    def negate_a_zero(changed: nn.Linear) -> None:
        changed.weight.data[3, 3] = -0.0

    receipt = SimpleNamespace(changed=1, share=0.1, seconds={"total": 0.0}, revert=negate_a_zero)
    monkeypatch.setattr(run, "one_shot", lambda *_: receipt)
    dataset = SimpleNamespace(x_test=torch.rand(10, 8), y_test=torch.arange(10))
    codes = MnemonicCodes.generate(10, (8,))
    with pytest.raises(RuntimeError, match="undoing class 3 did not bring every bit of the model back"):
        run.forget_and_undo(model, dataset, codes, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"data": "mnist"}, ValueError, r"`data` must be one of \['digits', 'fashion-mnist'\], got 'mnist'"),
        ({"folder": Path("x")}, ValueError, "`folder` must be given with fashion-mnist only, got x with digits"),
        ({"classes": []}, ValueError, "`classes` must name at least one class, got none"),
        (
            {"output": Path("no/such/folder/x.png")},
            FileNotFoundError,
            "`output` must be in a folder that exists, got no/such/folder/x.png",
        ),
    ],
)
def test_refused(settings: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        run.run_demo(**settings)  # type: ignore[arg-type]
