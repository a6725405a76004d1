"""The operators on lists of tensors, beside PyTorch's ways: select, perturb, project, fingerprint."""

from __future__ import annotations

from typing import Any

import torch
from gpu.measuring import Bench, Row, WrongError, check
from gpu.rates import share
from torch import Tensor, nn

import fastforget
from fastforget import ops


def shapes(bench: Bench) -> list[tuple[int, ...]]:
    """Return the shapes of 86.6M elements in 152 tensors, as in ViT-B/16."""
    d = 16 if bench.small else 768
    block = [(d,), (d,), (3 * d, d), (3 * d,), (d, d), (d,), (d,), (d,), (4 * d, d), (4 * d,), (d, 4 * d), (d,)]
    return [(1, 1, d), (d, 3, 16, 16), (d,), (1, 197, d), *12 * block, (d,), (d,), (1000, d), (1000,)]


def drawn(bench: Bench, seed: int) -> list[Tensor]:
    return [bench.randn(*shape, seed=100 * seed + n) for n, shape in enumerate(shapes(bench))]


def select(bench: Bench, part: float) -> Row:
    scores = [score.mul_(3).exp_() for score in drawn(bench, 0)]
    total = sum(map(torch.numel, scores))
    k = max(1, int(part * total))
    flat = torch.cat([score.flatten() for score in scores])
    mask = torch.cat([m.flatten() for m in ops.select_mask(ops.select(scores, k)[0], scores)])
    if int(mask.sum()) != k or bool(flat[mask].min() < flat[~mask].max()):
        raise WrongError("these are not the k largest")
    del flat, mask
    ms = bench.replayed(lambda _: ops.select(scores, k))

    def peer(_: Any) -> Tensor:
        return torch.topk(torch.cat([score.flatten() for score in scores]), k, sorted=False).indices

    plain = bench.milliseconds(peer)
    return {"ms": ms, **share(bench, "bytes", 4.0 * total, ms), "cat+topk ms": plain, "x": plain / ms}


def perturb(bench: Bench, part: float) -> Row:
    scores, parameters, directions = (drawn(bench, seed) for seed in range(3))
    total = sum(map(torch.numel, scores))
    k = max(1, int(part * total))
    mask, _ = ops.select(scores, k)
    before = [parameter.clone() for parameter in parameters]
    masks = ops.select_mask(mask, scores)
    old = ops.perturb(parameters, directions, mask, k, 0.5)
    moved = zip(parameters, before, directions, masks, strict=True)
    if not all(torch.equal(p, torch.where(m, b + 0.5 * d, b)) for p, b, d, m in moved):
        raise WrongError("the selected elements moved by something else")
    ops.perturb_undo(parameters, mask, old)
    if not all(map(torch.equal, parameters, before)):
        raise WrongError("undone, they are not what they were")
    ms = bench.replayed(lambda _: ops.perturb(parameters, directions, mask, k, 1e-6))
    undo = bench.replayed(lambda _: ops.perturb_undo(parameters, mask, old))
    # At least: read the mask; for each chosen element read direction and old value, write old and new value.
    bound = total / 8 + 16.0 * k

    def peer(_: Any) -> None:
        chosen = torch._foreach_mul(directions, masks)  # noqa: SLF001
        torch._foreach_add_(parameters, chosen, alpha=1e-6)

    plain = bench.replayed(peer)
    return {"ms": ms, "undo ms": undo, **share(bench, "bytes", bound, ms), "foreach ms": plain, "x": plain / ms}


def select_and_perturb(bench: Bench, part: float) -> Row:
    """Time both as they are used: threshold, mask, update and undo values."""
    scores, parameters, directions = (drawn(bench, seed) for seed in range(3))
    total = sum(map(torch.numel, scores))
    k = max(1, int(part * total))

    def both(_: Any) -> Tensor:
        return ops.perturb(parameters, directions, ops.select(scores, k)[0], k, 1e-6)

    before = [parameter.clone() for parameter in parameters]
    both(None)
    moved = sum(int((new != old).sum()) for new, old in zip(parameters, before, strict=True))
    if not 0 < moved <= k:  # a step may round to none
        raise WrongError(f"{moved} elements moved, at most {k} are to")
    ms, called = bench.replayed(both), bench.milliseconds(both)
    bound = 4.0 * total + total / 8 + 16.0 * k
    return {"ms": ms, "as called ms": called, **share(bench, "bytes", bound, ms)}


def with_flat_vectors(tasks: list[list[Tensor]]) -> Tensor:
    """Run PCGrad without waiting for the device."""
    rows = [torch.cat([tensor.flatten() for tensor in task]) for task in tasks]
    total = torch.zeros_like(rows[0])
    for i, row in enumerate(rows):
        for j, other in enumerate(rows):
            if i != j:
                step = (torch.dot(row, other) / torch.dot(other, other)).clamp(max=0)
                row = torch.addcmul(row, other, step, value=-1)  # noqa: PLW2901
        total += row
    return total


def with_foreach(tasks: list[list[Tensor]]) -> list[Tensor]:
    def product(a: list[Tensor], b: list[Tensor]) -> Tensor:
        return torch.stack([p.sum() for p in torch._foreach_mul(a, b)]).sum()  # noqa: SLF001

    total: list[Tensor] = []
    for i, task in enumerate(tasks):
        g = task
        for j, other in enumerate(tasks):
            if i != j:
                step = (product(g, other) / product(other, other)).clamp(max=0)
                g = torch._foreach_sub(g, torch._foreach_mul(other, step))  # noqa: SLF001
        total = torch._foreach_add(total, g) if total else list(g)  # noqa: SLF001
    return total


def project(bench: Bench) -> Row:
    tasks = [drawn(bench, 0), drawn(bench, 1)]
    torch._foreach_add_(tasks[1], tasks[0], alpha=-0.5)
    out = [torch.empty_like(tensor) for tensor in tasks[0]]
    fastforget.harmonize(*tasks, project="both", out=out)
    error = check(torch.cat([t.flatten() for t in out]), with_flat_vectors(tasks), 1e-4)
    ms = bench.replayed(lambda _: fastforget.harmonize(*tasks, project="both", out=out))
    one_way = bench.replayed(lambda _: fastforget.harmonize(*tasks, project="forget", out=out))
    called = bench.milliseconds(lambda _: fastforget.harmonize(*tasks, project="forget", out=out))
    peer = {
        "cat/dot ms": bench.milliseconds(lambda _: with_flat_vectors(tasks)),
        "foreach ms": bench.milliseconds(lambda _: with_foreach(tasks)),
    }
    moved = 5.0 * sum(tensor.nbytes for tensor in out)  # both are read twice, one is written
    row = {
        "ms": ms,
        '"forget" ms': one_way,
        '"forget" as called ms': called,
        **share(bench, "bytes", moved, ms),
        **peer,
    }
    return {**row, "x": min(peer.values()) / ms, "relative error": error}


def lists(bench: Bench) -> None:
    bench.row("select and perturb 86M, 3.0%", lambda: select_and_perturb(bench, 0.03))
    for part in (0.001, 0.03, 0.5):
        bench.row(f"select 86M, {part:.1%}", lambda part=part: select(bench, part))
        bench.row(f"perturb 86M, {part:.1%}", lambda part=part: perturb(bench, part))
    bench.row("project 86M, K = 2", lambda: project(bench))

    def fingerprint() -> Row:
        holder = nn.ParameterList(drawn(bench, 0)).to(bench.device)
        ms = bench.milliseconds(lambda _: fastforget.fingerprint(holder))
        size = sum(p.nbytes for p in holder.parameters())
        return {"ms": ms, **share(bench, "bytes", float(size), ms)}

    bench.row("fingerprint 86M", fingerprint)
