"""`fisher_diagonal` of whole models, beside a forward and backward pass and other ways."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import peers
import torch
import torch.nn.functional as F
from gpu.measuring import Bench, Row, check, precision
from gpu.models import Model
from torch import Tensor, nn

import fastforget
from fastforget.classifier.losses import cross_entropy


def check_model(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Return the largest relative error of a parameter's Fisher of two samples. No sum may be in less than float32."""
    with precision("fp32"):
        exact = peers.prepare("batch-1 loop", copy.deepcopy(model).double(), cross_entropy)
        x = inputs[:2].double() if inputs.is_floating_point() else inputs[:2]
        expected = exact(x, targets[:2])
        found = fastforget.fisher_diagonal(model, inputs[:2], targets[:2])
    largest = max(float(value.norm()) for value in expected.values())
    # The gradient of the bias of keys is nothing but rounding.
    kept = {name: value for name, value in expected.items() if float(value.norm()) > 1e-9 * largest}
    # A value at the kink of a ReLU may be rounded to the other side.
    return max(check(found[name], value, 1e-2) for name, value in kept.items())


def whole(bench: Bench, build: Callable[[Bench], Model], name: str) -> Row:
    model, inputs, targets = build(bench)
    model = model.to(bench.device)
    row: Row = {"relative error": check_model(model, inputs, targets)}
    with precision(name) as dtype:
        model = model.to(dtype)
        inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
        parameters = list(model.parameters())

        def plain(_: Any) -> Any:
            return torch.autograd.grad(F.cross_entropy(model(inputs).float(), targets), parameters)

        def ours(_: Any) -> Any:
            return fastforget.fisher_diagonal(model, inputs, targets)

        fallback = ours(None).fallback
        row |= {"fallback": len(fallback)} if fallback else {}
        row["ms"] = bench.milliseconds(ours)
        row["forward+backward ms"] = bench.milliseconds(plain)
        row["of forward+backward"] = row["ms"] / row["forward+backward ms"]
        row["with gradient ms"] = bench.milliseconds(
            lambda _: fastforget.fisher_diagonal(model, inputs, targets, with_gradient=True)
        )
        row |= {"peak MB": bench.peak(lambda: ours(None)), "forward+backward peak MB": bench.peak(lambda: plain(None))}
        for peer, count in (("vmap(grad)", len(targets)), ("batch-1 loop", min(8, len(targets)))):
            row |= beside(bench, peer, model, (inputs[:count], targets[:count]), len(targets) / count)
    for peer in ("vmap(grad)", "batch-1 loop"):
        if isinstance(row[f"{peer} ms"], float):
            row[f"x {peer}"] = row[f"{peer} ms"] / row["ms"]
    return row


def beside(bench: Bench, peer: str, model: nn.Module, samples: tuple[Tensor, Tensor], times: float) -> Row:
    """Return the time of a peer, scaled up from the samples that it ran, or the error that it raised."""
    try:
        method = peers.prepare(peer, model, cross_entropy)
        took = bench.milliseconds(lambda _: method(*samples), rounds=3) * times
        return {f"{peer} ms": took, f"{peer} peak MB": bench.peak(lambda: method(*samples))}
    except Exception as error:  # noqa: BLE001
        return {f"{peer} ms": f"{type(error).__name__}: {error}".splitlines()[0][:120]}
