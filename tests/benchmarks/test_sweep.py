"""The sweep over architectures: its reference, its errors and its page. The libraries are not needed."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget import fisher_diagonal

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = ROOT / "benchmarks" / "sweep"
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "quality")
    monkeypatch.syspath_prepend(folder)
    before, path = set(sys.modules), list(sys.path)
    yield folder
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if (folder / f"{name}.py").exists() or (ROOT / "benchmarks" / "quality" / f"{name}.py").exists():
            del sys.modules[name]


def modules(*names: str) -> list[ModuleType]:
    return [__import__(name) for name in names]


def test_there_are_enough_of_every_kind(sweep: Path) -> None:
    (architectures,) = modules("architectures")
    every = architectures.ARCHITECTURES
    assert len(every) >= 60
    assert set(architectures.FEW) <= set(every)
    assert {every[name].family for name in architectures.FEW} <= {one.family for one in every.values()}
    assert {one.task for one in every.values()} == {"classes", "tokens", "pixels"}
    assert all(one.model in every for one in architectures.LARGE.values() if one.model not in ("resnet18",))


def test_the_page_is_what_the_rows_say(sweep: Path) -> None:
    (page,) = modules("page")
    assert page.PAGE.read_text() == "\n".join(page.lines(ROOT / "benchmarks" / "results")) + "\n"


def test_the_bars_hold_in_the_rows(sweep: Path) -> None:
    """All are right; in nine of ten nearly all is fused; finite differences confirm each."""
    page, architectures = modules("page", "architectures")
    rows = page.rows_of("architectures", ROOT / "benchmarks" / "results")
    assert set(rows) == set(architectures.ARCHITECTURES)
    assert [name for name, row in rows.items() if not page.is_right(row)] == []
    assert sum(row.get("fused", 0) >= page.FUSED for row in rows.values()) >= 0.9 * len(rows)
    assert max(row["slope_error"] for row in rows.values()) < 1e-3


class Tokens(nn.Module):
    """A batch norm whose gradient is transposed in memory, of which PyTorch's backward is wrong for one sample."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.head(self.norm(self.conv(x)).flatten(2).transpose(1, 2).mean(1))
        return rows


def test_the_reference_is_right_where_a_single_sample_is_not(sweep: Path) -> None:
    (subjects,) = modules("subjects")
    torch.manual_seed(0)
    model = Tokens().eval()
    x, y = torch.randn(3, 3, 16, 16), torch.tensor([0, 2, 1])
    subject = subjects.Subject(model, x, y, subjects.loss_of_classes)
    wide = subjects.doubled(subject)
    exact = subjects.exact_fisher(wide)
    assert subjects.slope_error(wide) < 1e-6
    for name, value in fisher_diagonal(model, x, y).items():
        assert (value - exact[name]).norm() <= 1e-5 * exact[name].norm()
    # and one that is off by a thousandth is seen
    off = {name: value * 1.001 for name, value in exact.items()}
    (run,) = modules("run")
    assert min(run.errors(off, exact).values()) == pytest.approx(1e-3)


def test_losses_leave_padding_out(sweep: Path) -> None:
    (subjects,) = modules("subjects")
    logits, targets = torch.randn(2, 3, 5), torch.tensor([[1, 2, -100], [4, 0, 3]])
    losses = subjects.loss_of_tokens(logits, targets)
    assert torch.allclose(losses[0], F.cross_entropy(logits[0, :2], targets[0, :2]))
    assert torch.allclose(losses[1], F.cross_entropy(logits[1], targets[1]))


def test_an_architecture_that_ends_its_process_is_a_row(sweep: Path) -> None:
    run, architectures = modules("run", "architectures")
    one = architectures.ARCHITECTURES["resnet10t"]

    def end(_: object) -> None:
        raise SystemExit(3)

    assert run.isolated(one, end)["why"] == "the process ended without a result"

    def fail(_: object) -> None:
        raise KeyError("reason")

    assert run.isolated(one, fail)["why"] == "KeyError: 'reason'"
