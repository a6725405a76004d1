"""`one_shot` from end to end, beside a forward and backward pass: ten codes of 32x32, and a thousand of 224x224."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import networks
import torch
import torch.nn.functional as F
from gpu.measuring import Bench, Row, WrongError, precision
from gpu.models import residual
from torch import nn

import fastforget
from fastforget import MnemonicCodes


def small_images(bench: Bench) -> tuple[nn.Sequential, MnemonicCodes]:
    codes = MnemonicCodes.generate(10, (3, 32, 32), per_class=1)
    return residual(bench), codes


def thousand_classes(bench: Bench) -> tuple[nn.Sequential, MnemonicCodes]:
    torch.manual_seed(0)
    classes, size = (20, 32) if bench.small else (1000, 224)
    return networks.resnet18_imagenet(classes), MnemonicCodes.generate(classes, (3, size, size), per_class=1)


def know(model: nn.Sequential, codes: MnemonicCodes) -> None:
    """Fit the last layer of a model to the codes."""
    body, head = model[:-1], model[-1]
    with torch.no_grad():
        features = torch.cat([body(part) for part in codes.inputs.split(100)])
    optimiser = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(500):
        optimiser.zero_grad()
        F.cross_entropy(head(features), codes.labels).backward()
        optimiser.step()
    optimiser.zero_grad()


@precision("tf32")
def forgetting(
    bench: Bench, build: Callable[[Bench], tuple[nn.Sequential, MnemonicCodes]] = small_images, **settings: Any
) -> Row:
    model, codes = build(bench)
    model, codes = model.to(bench.device), codes.to(bench.device)
    know(model, codes)
    if settings.pop("kept", False):
        settings["fisher"] = fastforget.fisher_diagonal(model, codes.inputs, codes.labels, reduction="sum")
    before, taken, phases = fastforget.fingerprint(model), list[float](), list[dict[str, float]]()
    repeats = 3 if bench.small else 9 if len(codes.labels) < 100 else 4
    for n in range(repeats):
        bench.wait()
        started = time.perf_counter()
        receipt = fastforget.one_shot(model, codes, 3, **settings)
        bench.wait()
        if n:
            taken.append(1e3 * (time.perf_counter() - started))
            phases.append(dict(receipt.seconds))
        with torch.no_grad():
            forgotten = int(model(codes.inputs[3:4]).argmax()) != 3
        receipt.revert(model)
        if fastforget.fingerprint(model) != before:
            raise WrongError("reverted, it is not what it was")
        if not forgotten and settings.get("rule") != "paper":  # the paper's rule need not forget
            raise WrongError("the class is still recognised")
    parameters = list(model.parameters())
    plain = bench.milliseconds(
        lambda _: torch.autograd.grad(F.cross_entropy(model(codes.inputs), codes.labels), parameters)
    )
    parts = {f"{name} ms": 1e3 * median(p[name] for p in phases) for name in phases[0] if name != "total"}
    ms = median(taken)
    return {"ms": ms, "forward+backward ms": plain, "of forward+backward": ms / plain, **parts}
