"""Output rows of excluded classes that cannot be set: who asks for them is told before any step."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from known_codes import assert_holds, copied_tensors, refused
from learners import CLASS, CLASSES, FORGET, REMAIN, REST, SIZE, learner
from sample_forgetting.calls import few_steps
from torch import Tensor, nn

from fastforget import ForgettingError, ShallowForgettingWarning


class Tied(nn.Module):
    """Its output rows are also looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.rows = nn.Linear(SIZE, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return self.rows(torch.tanh(h + F.embedding(h.argmax(1) % CLASSES, self.rows.weight)))


class Cosine(nn.Module):
    """Compares directions: no row moves a logit linearly."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(CLASSES, SIZE))

    def forward(self, x: Tensor) -> Tensor:
        return 9 * F.normalize(x) @ F.normalize(self.rows).T


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


FROZEN = "`4.weight` is not among the parameters that may move"
TIED = r"the weights that produce the logits, `rows.weight`, serve elsewhere too \(tied weights\)"
NONE = "no parameter with a row for each class produces the logits by a product with features"
IMPOSSIBLE: list[tuple[Any, dict[str, Any], str]] = [
    (learner, {"parameters": ["0.weight", "4.bias"]}, FROZEN),
    (partial(made, Tied), {}, TIED),
    (partial(made, Cosine), {}, NONE),
]


@pytest.mark.parametrize(("make", "settings", "reason"), IMPOSSIBLE)
@pytest.mark.parametrize("goals", [{}, {"support": "random", "target": "zero"}])
def test_rows_that_cannot_be_set(make: Any, settings: dict[str, Any], reason: str, goals: dict[str, Any]) -> None:
    """They stay as the steps left them, and the receipt says so; who asks for them is told before any step."""
    model, left = make(), make()
    with pytest.warns(ShallowForgettingWarning, match=f"^the class is not disconnected, because {reason}; "):
        receipt = few_steps(model, CLASS, REST, **settings, **goals)
    few_steps(left, CLASS, REST, output_row=False, **settings, **goals)
    assert receipt.evidence["disconnected"] == 0
    assert receipt.claims == ()
    assert_holds(model, copied_tensors(left))
    steps: list[int] = []
    text = f"^`output_row` asks for output rows that cannot be set, because {reason}; the model is unchanged$"
    with refused(model, ForgettingError, text):
        few_steps(model, CLASS, REST, output_row=True, callback=lambda n, _: steps.append(n), **settings, **goals)
    assert not steps


@pytest.mark.parametrize("goals", [{}, {"support": "random", "target": "zero"}])
def test_no_class_is_excluded(goals: dict[str, Any]) -> None:
    model = learner()
    with refused(model, ForgettingError, "because samples of every class to forget remain; the model is unchanged$"):
        few_steps(model, FORGET, REMAIN, output_row=True, **goals)
