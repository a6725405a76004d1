"""Fisher sums over parts of a batch, and comparisons of them."""

import copy
from typing import Any

import torch
from asserts import assert_close, assert_same_bits, prepared
from fisher.batches import rows
from models import LABELS, MODELS, N, loss
from torch import Tensor

from fastforget import FisherDiagonal, fisher_diagonal

PARTS = [slice(0, 1), slice(1, 3), slice(3, 5)]
GROUPS = torch.tensor([[1.0, 0, 2, 0.5, 0], [0, 3, 0, 0, 1]])
KINDS: dict[str, dict[str, Any]] = {
    "given": {"with_gradient": True},
    "expectation": {"labels": "expectation"},
    "groups": {"weights": GROUPS, "with_gradient": True},
    "custom loss": {"loss": loss},
}


def part(name: str, samples: slice, kind: str = "given", **settings: Any) -> FisherDiagonal:
    build, inputs = MODELS[name]
    settings = {"reduction": "sum", **KINDS[kind], **settings}
    if "weights" in settings:  # of these samples; a group may be empty among them
        settings["weights"] = settings["weights"][:, samples] + 1
    targets = None if kind == "expectation" else LABELS[samples]
    return fisher_diagonal(prepared(build), rows(inputs, samples), targets, **settings)


def parts(name: str, kind: str = "given") -> list[FisherDiagonal]:
    return [part(name, samples, kind) for samples in PARTS]


def snapshot(found: FisherDiagonal) -> Any:
    return copy.deepcopy((dict(found), vars(found)))


def assert_same(found: FisherDiagonal, expected: Any) -> None:
    values, facts = expected
    assert list(found) == list(values)
    for name, value in values.items():
        assert_same_bits(found[name], value)
    for name, fact in facts.items():
        if isinstance(fact, Tensor):
            assert_same_bits(getattr(found, name), fact)
        elif name != "gradient" or fact is None:
            assert getattr(found, name) == fact
        else:
            for key, value in fact.items():
                assert_same_bits(found.gradient[key], value)  # type: ignore[index]


def assert_total(found: FisherDiagonal, expected: FisherDiagonal) -> None:
    """The same to float32 rounding, and the same facts."""
    for name, value in expected.items():
        assert_close(found[name], value, 1e-6, name)
    if expected.gradient is not None and found.gradient is not None:
        for name, value in expected.gradient.items():
            assert (found.gradient[name] - value).norm() <= 1e-6 * (N * expected[name]).sqrt().norm(), name
    for fact in ("reduction", "samples", "model", "definition", "fallback"):
        assert getattr(found, fact) == getattr(expected, fact), fact
    assert_close(found.weight, expected.weight, 1e-12)
    assert (found.gradient is None) == (expected.gradient is None)
