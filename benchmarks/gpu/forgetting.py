"""`one_shot` from end to end, beside a forward and backward pass."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from gpu.measuring import Bench, Row, WrongError
from gpu.models import residual

import fastforget
from fastforget import MnemonicCodes


def forgetting(bench: Bench, **settings: Any) -> Row:
    codes = MnemonicCodes.generate(10, (3, 32, 32), per_class=1).to(bench.device)
    model = residual(bench).to(bench.device)
    body, head = model[:-1], model[-1]
    with torch.no_grad():
        features = body(codes.inputs)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(500):
        optimiser.zero_grad()
        F.cross_entropy(head(features), codes.labels).backward()
        optimiser.step()
    optimiser.zero_grad()
    if settings.pop("kept", False):
        settings["fisher"] = fastforget.fisher_diagonal(model, codes.inputs, codes.labels, reduction="sum")
    before, taken, phases = fastforget.fingerprint(model), list[float](), list[dict[str, float]]()
    for n in range(3 if bench.small else 9):
        bench.wait()
        started = time.perf_counter()
        receipt = fastforget.one_shot(model, codes, 3, **settings)
        bench.wait()
        if n:
            taken.append(1e3 * (time.perf_counter() - started))
            phases.append(dict(receipt.seconds))
        forgotten = int(model(codes.inputs).argmax(1)[3]) != 3
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
