"""What `one_shot` refuses of levels, samples and output layers; the model is then as it was."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from known_codes import model_with_codes, refused
from torch import Tensor, nn

from fastforget import ForgettingError, MnemonicCodes, one_shot

X = torch.randn(6, 6, generator=torch.Generator().manual_seed(5))
Y = torch.tensor([0, 1, 2, 3, 0, 2])
REFUSED: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (None, {}, ValueError, r"^`mnemonic_codes` must be given without `samples`, got None$"),
    (None, {"samples": (X, Y), "rule": "paper"}, ValueError, r'must be given with `fisher` or rule="paper", got None$'),
    (None, {"samples": (X, Y), "level": "body"}, ValueError, r'^`level="body"` needs `mnemonic_codes`; real samples'),
    (0, {"level": "features"}, ValueError, r'^`level="features"` needs `samples=\(inputs, targets\)` with some of'),
    (0, {"level": "features", "samples": (X[:2], Y[:2] * 2)}, ValueError, r"codes alone do not carry the features"),
    (0, {"level": "head"}, ValueError, r"^`level` must be \"output\", \"body\", \"features\" or None, got 'head'$"),
    (0, {"level": "output", "output_row": False}, ValueError, r'^`level="output"` changes the output row alone: leave'),
    (0, {"level": "output", "rule": "paper"}, ValueError, r'^`level="output"` changes the output row alone: leave'),
    (0, {"output_row": 1}, TypeError, r"^`output_row` must be a bool or None, got int$"),
    (0, {"output_depth": "12"}, TypeError, r"^`output_depth` must be"),
    (0, {"output_depth": -1.0}, ValueError, r"^`output_depth` must lie in \(0, inf\), got"),
    (0, {"output_depth": float("nan")}, ValueError, r"^`output_depth` must lie in \(0, inf\), got"),
    (None, {"samples": X}, TypeError, r"^`samples` must be \(inputs, targets\), or \(inputs, None\) .*, got Tensor$"),
    (None, {"samples": (X, Y, Y)}, TypeError, r"^`samples` must hold batches \(inputs, targets\) or mappings"),
    (None, {"samples": (X, Y.float())}, TypeError, r"targets of `samples` .* or None, got torch.float32 \(6,\)$"),
    (None, {"samples": (X, Y[None])}, TypeError, r"targets of `samples` .* or None, got torch.int64 \(1, 6\)$"),
    (None, {"samples": (X, Y[:5])}, ValueError, r"^`targets` must have the batch size \(6,\) first, got shape \(5,\)$"),
    (None, {"samples": (X, Y + 1)}, ValueError, r"^targets of `samples` must lie in \[0, 4\)$"),
    (None, {"samples": (X[:, :5], Y)}, ValueError, r"^`samples` must be what the model's forward takes"),
    (None, {"samples": (X * float("nan"), Y)}, ValueError, "must be finite, got NaN or infinity"),
    (None, {"samples": (X[:0], Y[:0])}, ValueError, "must not be empty"),
    (None, {"samples": (X[1:2], Y[1:2])}, ValueError, "^`samples` must hold some of remaining classes, got none$"),
    (None, {"samples": (X, Y), "cls": 4}, ValueError, r"^`cls` must lie in \[0, 4\), got \[4\]$"),
    (None, {"samples": (X, Y), "cls": [0, 1, 2, 3]}, ValueError, "^`cls` must leave at least one of 4 classes"),
]  # fmt: skip


@pytest.mark.parametrize(("codes", "settings", "error", "text"), REFUSED)
def test_what_is_refused(codes: Any, settings: dict[str, Any], error: type[Exception], text: str) -> None:
    model, known = model_with_codes()
    with refused(model, error, text):
        one_shot(model, None if codes is None else known, **{"cls": 1, **settings})


def test_codes_and_samples_of_models_of_other_sizes() -> None:
    model, _ = model_with_codes()
    with refused(model, ValueError, "^`mnemonic_codes` must be of 4 classes, got 5$|one class per output of the model"):
        one_shot(model, MnemonicCodes.generate(5, (6,)), 1, samples=(X, None))


class Cosine(nn.Module):
    """Compares directions: no row moves a logit linearly."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return 9 * F.normalize(x) @ F.normalize(self.rows).T


def test_a_model_without_an_output_layer() -> None:
    model = Cosine().eval()
    codes = model.rows.detach().clone()
    text = (
        "^`output_row` needs a linear layer that produces the logits, or an output bias, among the parameters that may "
        "move, but there is none, because no parameter with a row for each class produces the logits by a product with "
        "features; the model is unchanged$"
    )
    for settings in ({"level": "output"}, {"output_row": True, "rho": 0.9}):
        with refused(model, ForgettingError, text):
            one_shot(model, codes, 1, **settings)  # type: ignore[arg-type]
