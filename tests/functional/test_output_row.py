"""The output row of a class that was never seen: its closed form and its calibration."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close
from known_codes import digits
from torch import Tensor, nn

from fastforget.classifier.output_layer import find_output_layer
from fastforget.functional.output_row import Examined, unseen_rows, usual_depth

DEPTH = 12.0


def _features(samples: int = 400) -> tuple[Tensor, Tensor, Tensor, nn.Module]:
    """Features and logits of digits in float64, and their classes."""
    model, _, data = digits()
    layer = find_output_layer(model, data.x_test[:8])
    assert layer is not None
    h, logits = layer.examine(model, data.x_test[:samples])
    return h.double(), logits.double(), data.y_test[:samples], model


def _without(cls: int) -> list[int]:
    return [other for other in range(10) if other != cls]


@pytest.mark.parametrize("cls", [0, 3, 8])
def test_it_is_where_training_without_the_class_ends(cls: int) -> None:
    """Row and bias that minimise the cross-entropy of the others' images with weight decay, by L-BFGS."""
    h, logits, y, _ = _features()
    rest, rows = _without(cls), y != cls
    h, others, right = h[rows], logits[rows][:, rest], logits[rows].gather(1, y[rows][:, None]).squeeze(1)
    vector = torch.zeros(h.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    ones = torch.cat([h, torch.ones_like(h[:, :1])], 1)
    optimizer = torch.optim.LBFGS(
        [vector], max_iter=1000, tolerance_grad=1e-9, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        all_logits = torch.cat([others, (ones @ vector)[:, None]], 1)
        return (all_logits.logsumexp(1) - right).mean() + 5e-3 * vector.square().sum()

    def closure() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return float(value.detach())

    optimizer.step(closure)  # type: ignore[arg-type]
    assert torch.autograd.grad(loss(), vector)[0].norm() < 1e-6
    found = unseen_rows(
        Examined(h, others),
        depth=DEPTH,
        longest=torch.tensor(1e9),
        constants=torch.zeros(1),
        bias=torch.zeros(()),
    )
    assert found.bias is not None
    closed = torch.cat([found.weight[0], found.bias])
    assert F.cosine_similarity(closed, vector.detach(), 0) > 0.9
    other = torch.cat([h[y[rows] == y[rows][0]].mean(0), torch.zeros(1)])  # no vector of features does as well
    assert F.cosine_similarity(-other, vector.detach(), 0) < F.cosine_similarity(closed, vector.detach(), 0)


def _depths(rows: Any, examined: Examined, scale: float, *, second: bool) -> Tensor:
    """How far each sample is from each class, in plain words of the definition, [N, K]."""
    bias = 0.0 if rows.bias is None else rows.bias
    own = examined.features.double() @ rows.weight.T + scale * bias
    found = []
    for logits in examined.logits.double():
        kept = sorted(logits.tolist())[: -1 if second else None]
        found.append(torch.tensor(kept, dtype=torch.float64).logsumexp(0))
    return torch.stack(found)[:, None] - own


def _random(seed: int, spread: float = 1.0) -> Examined:
    generator = torch.Generator().manual_seed(seed)
    h = torch.rand(30, 5, generator=generator, dtype=torch.float64)
    return Examined(h, spread * torch.randn(30, 4, generator=generator, dtype=torch.float64))


def _lacks(rows: Any, others: Examined, own: Examined | None, scale: float, constants: Tensor) -> Tensor:
    """By how many nats each kind of samples falls short of its goal, [G, K]."""
    lacks = [DEPTH * (0.8 if own else 1.2) - _depths(rows, others, scale, second=True).mean(0)]
    if own is not None:
        lacks.append(DEPTH - _depths(rows, own, scale, second=False).mean(0))
    return torch.stack(lacks) + constants


def _margins(rows: Any, others: Examined, own: Examined | None, scale: float, constants: Tensor) -> Tensor:
    """By how many nats known samples are beyond the nat that each has, [G, K]."""
    known = [_depths(rows, group, scale, second=False).amin(0) for group in (others, own) if group is not None]
    return torch.stack(known) - constants - 1


CONSTANTS = torch.tensor([0.0, 0.4], dtype=torch.float64)


@pytest.mark.parametrize("longest", [1e9, 0.5])
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("bias", [None, -0.7])
@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_it_is_the_shortest_that_is_deep_enough(
    seed: int | None, bias: float | None, scale: float, longest: float
) -> None:
    """By the conditions of Karush, Kuhn and Tucker: amounts are positive, and zero for a kind that does not bind.

    Where rows may not be that long, both kinds fall short of their goals, and one that falls less short takes no part.
    """
    others, own = _random(0, 0.3), None if seed is None else _random(seed, 0.3 * seed)
    if seed == 3:
        own = Examined(own.features - 0.3, own.logits)  # type: ignore[union-attr] # against the others here and there
    start = None if bias is None else torch.tensor(bias, dtype=torch.float64)
    rows = unseen_rows(
        others, own, depth=DEPTH, longest=torch.tensor(longest), constants=CONSTANTS, bias=start, scale=scale
    )
    lacks = _lacks(rows, others, own, scale, CONSTANTS)
    if bias is not None:
        met = torch.cat([-lacks, _margins(rows, others, own, scale, CONSTANTS)])
        assert met.amin(0).abs().max() < 1e-11  # all are met, and one of them binds
    elif longest > 1:
        assert lacks.amax(0).abs().max() < 1e-11
    groups = [group for group in (others, own) if group]
    means = torch.stack([group.features.double().mean(0) for group in groups])
    amounts = torch.linalg.lstsq(means.T, -rows.weight.T).solution
    assert_close(-amounts.T @ means, rows.weight, 1e-12)
    assert amounts.min() >= -1e-12
    norms = rows.weight.norm(dim=1)
    assert norms.max() <= longest * (1 + 1e-12)
    assert torch.where(amounts > 1e-12, lacks.amax(0) - lacks, 0.0).max() < 1e-11
    if longest < 1 and bias is None:
        assert_close(norms, torch.full_like(norms, longest), 1e-12)


def test_means_that_leave_no_choice() -> None:
    """Equal ones, opposite ones, and none: no number that is not finite, and the bias does what a row cannot."""
    others = _random(0)
    for features in (others.features, -others.features, 0 * others.features):
        own = Examined(features, others.logits)
        for first, second in ((others, own), (own, others)):
            rows = unseen_rows(
                first, second, depth=DEPTH, longest=torch.tensor(2.0), constants=CONSTANTS, bias=torch.zeros(())
            )
            assert bool(rows.weight.isfinite().all())
            met = torch.cat(
                [-_lacks(rows, first, second, 1.0, CONSTANTS), _margins(rows, first, second, 1.0, CONSTANTS)]
            )
            assert met.amin(0).abs().max() < 1e-11


def test_a_class_that_is_far_away_is_left_where_biases_start() -> None:
    """No length is needed: the row is that of a class to which nothing ever belonged."""
    others = _random(0)
    rows = unseen_rows(
        Examined(others.features, others.logits + 40),
        depth=DEPTH,
        longest=torch.tensor(1.0),
        constants=torch.zeros(1),
        bias=torch.tensor(-0.2),
    )
    assert rows.weight.abs().max() == 0
    assert rows.bias is not None
    assert rows.bias.item() == pytest.approx(-0.2, rel=1e-6)


def test_no_known_sample_is_assigned_to_the_class_however_far_they_spread() -> None:
    own = Examined(10 * torch.randn(30, 5, generator=torch.Generator().manual_seed(2)), _random(1, 5.0).logits)
    rows = unseen_rows(
        _random(0), own, depth=DEPTH, longest=torch.tensor(3.0), constants=torch.zeros(1), bias=torch.zeros(())
    )
    assert _depths(rows, own, 1.0, second=False).min().item() == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0, 30.0, 2000.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_usual_depth_is_that_of_classes_for_samples_not_theirs(classes: int, spread: float) -> None:
    """Beside the words of its definition; also where a model is so sure that probabilities are exactly 0 and 1."""
    logits = spread * torch.randn(20, classes, generator=torch.Generator().manual_seed(classes), dtype=torch.float64)
    depths = []
    for of_sample in logits:
        for cls in range(classes):
            if cls != int(of_sample.argmax()):
                others = torch.cat([of_sample[:cls], of_sample[cls + 1 :]])
                depths.append(others.logsumexp(0) - of_sample[cls])
    expected = max(8.0, torch.stack(depths).mean().item())
    assert usual_depth(logits).item() == pytest.approx(expected, rel=1e-12)
    assert usual_depth(logits + 1e3 * torch.arange(20.0)[:, None]).item() == pytest.approx(expected, rel=1e-9)


def test_a_class_alone_has_no_other_to_compare_with() -> None:
    others = Examined(_random(0).features, torch.randn(30, 1))
    assert usual_depth(others.logits).item() == 12
    rows = unseen_rows(others, longest=torch.tensor(9.0), constants=torch.zeros(1), bias=torch.zeros(()))
    assert rows.depth.item() == 12
    assert bool(rows.weight.isfinite().all())


@pytest.mark.parametrize("classes", [(3,), (0, 8)])
def test_the_depth_is_the_usual_one_unless_it_is_given(classes: tuple[int, ...]) -> None:
    h, logits, _, model = _features()
    rest, weight = [c for c in range(10) if c not in classes], model.get_parameter("8.weight").detach().double()
    found = [
        unseen_rows(
            Examined(h, logits[:, rest]),
            depth=depth,
            longest=weight[rest].norm(dim=1).max(),
            constants=torch.zeros(len(classes)),
            bias=torch.zeros(()),
        )
        for depth in (None, usual_depth(logits[:, rest]), float(usual_depth(logits[:, rest])), 4.0)
    ]
    for other in found[1:3]:
        assert_close(other.weight, found[0].weight, 1e-12)
        assert_close(other.depth, found[0].depth, 1e-12)
    assert found[0].depth > 8
    assert found[3].weight.norm() < found[0].weight.norm()
