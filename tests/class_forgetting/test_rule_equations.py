"""Both rules follow their equations, written once more as loops in float64."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, assert_same_bits
from class_forgetting.one_shot_cases import FREE, RHO
from known_codes import convnet, copied_tensors, edits_values_only, mlp, model_with_codes
from torch import Tensor, nn

from fastforget import MnemonicCodes, one_shot
from fastforget.classifier.losses import log_odds


def plain(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double()


def plain_sums(model: nn.Module, codes: MnemonicCodes, classes: Sequence[int], scale: float = 1.0) -> Any:
    """Mean squared gradients of the two groups, and the mean gradient of the first, by a loop over the codes."""
    inputs, labels = codes.tensor.flatten(0, 1).double(), codes.labels
    names = [name for name, _ in model.named_parameters()]
    forget, remain, gradient = ({name: torch.zeros(()).double() for name in names} for _ in range(3))
    count = sum(int(label) in classes for label in labels)
    for code, label in zip(inputs, labels, strict=True):
        loss = F.cross_entropy(model(code[None]), label[None]) * scale
        grads = dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))
        for name, grad in grads.items():
            if int(label) in classes:
                forget[name] = forget[name] + grad**2 / count
                gradient[name] = gradient[name] + grad / count
            else:
                remain[name] = remain[name] + grad**2 / (len(labels) - count)
    return forget, remain, gradient


@torch.no_grad()
def paper_rule(
    model: nn.Module, codes: MnemonicCodes, classes: Sequence[int], lambda1: float, lambda2: float
) -> tuple[nn.Module, int]:
    """Eq. 5-7 and the choice of the sign, in float64."""
    with torch.enable_grad():
        forget, remain, _ = plain_sums(plain(model), codes, classes)
    best: tuple[float, nn.Module, int] | None = None
    for sign in (-1, 1):
        moved = plain(model)
        for name, weight in moved.named_parameters():
            eta = torch.exp(torch.log(forget[name] + 1e-16) - torch.log(remain[name] + 1e-16))
            weight.add_(sign * min(lambda1, lambda2 / float(eta.max())) * eta)
        right = moved(codes.tensor.flatten(0, 1).double()).argmax(1) == codes.labels
        inside = torch.isin(codes.labels, torch.tensor(classes))
        merit = float(right[~inside].double().mean() + (~right[inside]).double().mean())
        if best is None or merit > best[0]:
            best = merit, moved, sign
    assert best is not None
    return best[1:]


SIGNS: dict[tuple[Any, ...], int] = {}
PAPER = [
    (build, classes, lambda1, lambda2)
    for build in (mlp, convnet)
    for classes in ([0], [1], [2], [3], [0, 2])
    for lambda1, lambda2 in ((1e-9, 1e-9), (1e-3, 1.0), (1.0, 0.3), (1.0, 3.0))
]


@pytest.mark.parametrize(("build", "classes", "lambda1", "lambda2"), PAPER)
def test_paper_rule_equals_equations_5_to_7(build: Any, classes: list[int], lambda1: float, lambda2: float) -> None:
    model, codes = model_with_codes(build)
    before = copied_tensors(model)
    expected, sign = paper_rule(model, codes, classes, lambda1, lambda2)
    with edits_values_only(model):
        receipt = one_shot(model, codes, classes, rule="paper", lambda1=lambda1, lambda2=lambda2)
    assert receipt.alpha == sign
    if lambda1 < 1e-8:  # neither sign changes what is recognised
        assert sign == -1
    assert receipt.changed == receipt.total
    assert receipt.settings == {"lambda1": lambda1, "lambda2": lambda2, "level": "body"}
    for name, value in expected.named_parameters():
        moved = value.double() - before[name].double()
        # float32 rounds the parameters, and the ratios' Fisher values to about 1e-5
        error = (copied_tensors(model)[name].double() - value).norm()
        assert error <= 1e-4 * moved.norm() + 1e-7 * value.norm(), name
    SIGNS[build, tuple(classes), lambda1, lambda2] = sign


def test_paper_rule_both_signs_were_seen() -> None:
    """Guards the test above: a rule that never tried the plus sign must not pass it."""
    if len(SIGNS) < len(PAPER):
        pytest.skip("needs the whole of the test above")
    assert set(SIGNS.values()) == {-1, 1}


def test_paper_rule_in_float64_is_exact() -> None:
    model, codes = model_with_codes()
    model.double()
    expected, _ = paper_rule(model, codes, [1], 1e-3, 1.0)
    one_shot(model, codes, 1, rule="paper", lambda1=1e-3, lambda2=1.0)
    for name, value in expected.named_parameters():
        assert_close(copied_tensors(model)[name], value.detach(), 1e-10, name)


def natural_rule(model: nn.Module, codes: MnemonicCodes, cls: int, rho: float, scale: float) -> Any:
    """Mask and direction, in float64; the direction is per unit of ``scale``."""
    forget, remain, gradient = plain_sums(plain(model), codes, [cls], scale)
    names = list(forget)
    eta = torch.cat([(torch.log(forget[n] + 1e-16) - torch.log(remain[n] + 1e-16)).flatten() for n in names])
    flat = torch.cat([remain[name].flatten() for name in names])
    chosen = torch.sort(eta, descending=True, stable=True).indices[: round(rho * len(eta))]
    mask = torch.zeros(len(eta), dtype=torch.bool)
    mask[chosen] = True
    direction = mask * torch.cat([gradient[name].flatten() for name in names]) / (flat + 0.1 * flat.mean())
    return mask, direction * scale


def moved_by(model: nn.Module, flat: Tensor) -> nn.Module:
    moved, offset = plain(model), 0
    with torch.no_grad():
        for weight in moved.parameters():
            weight.add_(flat[offset : offset + weight.numel()].view_as(weight))
            offset += weight.numel()
    return moved


def flattened(values: dict[str, Tensor], model: nn.Module) -> Tensor:
    return torch.cat([values[name].flatten() for name, _ in model.named_parameters()])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("build", "cls"), [(mlp, 1), (mlp, 2), (convnet, 0), (convnet, 3)])
def test_natural_rule_equals_its_definition(build: Any, cls: int, dtype: torch.dtype) -> None:
    model, codes = model_with_codes(build)
    model.to(dtype)
    before = flattened(copied_tensors(model), model)
    with torch.no_grad():
        odds = log_odds(plain(model)(codes.tensor.flatten(0, 1).double()), codes.labels)
    mask, direction = natural_rule(model, codes, cls, RHO, float(1 / torch.sigmoid(-odds).mean()))
    original = copy.deepcopy(model)
    receipt = one_shot(model, codes, cls, rho=RHO, output_row=False, spill=FREE)
    after = flattened(copied_tensors(model), model)

    found = torch.zeros(len(after), dtype=torch.bool)
    offset = 0
    for name, weight in model.named_parameters():
        if name in receipt.edits:
            indices = receipt.edits[name].indices
            assert indices is not None
            found[offset + indices.long()] = True
        offset += weight.numel()
    assert torch.equal(found, mask)
    assert_same_bits(after[~mask], before[~mask])
    moved = after.double() - before.double()
    assert_close(moved, receipt.alpha * direction, 1e-9 if dtype == torch.float64 else 1e-3, "step")

    def mean_odds(alpha: float) -> float:
        with torch.no_grad():
            outputs = moved_by(original, alpha * direction)(codes.tensor.flatten(0, 1).double())
        return log_odds(outputs, codes.labels)[codes.labels == cls].mean().item()

    assert mean_odds(receipt.alpha) == pytest.approx(-6, abs=0.11)
    crossing = next(k for k in range(1, 400) if mean_odds(k / 100 * receipt.alpha) <= -6 + 0.11)
    assert 0.95 <= crossing / 100 <= 1.01  # and it is the first


def test_depth_is_where_the_codes_end() -> None:
    model, codes = model_with_codes()
    expected = {"rho": RHO, "widen": 3.0, "depth": 6.0, "spill": 2.0, "reach": 16.0, "level": "body"}
    assert one_shot(model, codes, 1, rho=RHO).settings == expected
    model, codes = model_with_codes()
    receipt = one_shot(model, codes, 1, rho=RHO, depth=3, spill=FREE)
    assert receipt.evidence["forget_log_odds_after"] == pytest.approx(-3, abs=0.11)
