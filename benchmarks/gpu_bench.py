"""Times the CUDA kernels, and what is made of them, beside PyTorch's own ways and the machine's measured rates.

python benchmarks/gpu_bench.py --seconds 160          all rows; what does not fit into the time is left out, and says so
python benchmarks/gpu_bench.py --device cpu --small   smoke mode: shows that every row runs; nothing is saved

Every row is checked before it is timed, and a row that fails is recorded with its error; the rest goes on. Results are
medians by CUDA events after a warm-up, on inputs taken in turn so that they do not sit in the L2 cache. They are saved
after every row, to $OUT or benchmarks/results, as gpu-<device>.json and gpu-<device>.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import networks
import peers
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastforget
from fastforget import MnemonicCodes, ops, reference
from fastforget.losses import cross_entropy

ROUNDS, SECONDS_PER_TIMING = 15, 2.0
PRECISIONS = {"bf16": torch.bfloat16, "tf32": torch.float32, "fp32": torch.float32}
# Of the norm, against float64 sums over the same rounded operands.
TOLERANCE = {"bf16": 1e-4, "tf32": 5e-3, "fp32": 1e-5}
Row = dict[str, Any]


class WrongError(Exception):
    """A result differs from its reference."""


@contextmanager
def precision(name: str) -> Iterator[torch.dtype]:
    """How float32 products are computed."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        yield PRECISIONS[name]
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class Bench:
    """The rows, the machine's rates, and the clock."""

    def __init__(self, device: torch.device, *, small: bool, seconds: float) -> None:
        self.device, self.small = device, small
        self.ends = time.monotonic() + seconds
        self.rows: list[Row] = []
        self.rates: dict[str, float] = {}  # bytes or operations per second
        self.save: Callable[[], None] = lambda: None

    def row(self, name: str, run: Callable[[], Row]) -> None:
        """Add a row, whatever happens in it."""
        started = time.monotonic()
        found: Row = {"name": name}
        try:
            found |= {"error": "not run: out of time"} if started > self.ends else run()
        except Exception as error:  # noqa: BLE001 - the other rows are to run
            found["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            found["traceback"] = traceback.format_exc()
        found["took_s"] = round(time.monotonic() - started, 2)
        self.rows.append(found)
        print(line(found), flush=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.save()

    def milliseconds(
        self, call: Callable[[Any], Any], arguments: Sequence[Any] = (None,), rounds: int = ROUNDS
    ) -> float:
        """The median time of a call, given its arguments in turn; of several in a row where one is short."""
        turns = cycle(arguments)
        self._took(call, turns, 1)
        once = self._took(call, turns, 1)
        calls = max(1, min(20, int(1 / once))) if self.on_gpu else 1
        found: list[float] = []
        budget = time.monotonic() + SECONDS_PER_TIMING
        while len(found) < (2 if self.small else rounds) and (not found or time.monotonic() < budget):
            found.append(self._took(call, turns, calls))
        return median(found)

    def _took(self, call: Callable[[Any], Any], turns: Iterator[Any], calls: int) -> float:
        if not self.on_gpu:
            started = time.perf_counter()
            call(next(turns))
            return 1e3 * (time.perf_counter() - started)
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            call(next(turns))
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / calls

    def copies(self, make: Callable[[int], Any], size: int) -> list[Any]:
        """As many arguments of ``size`` bytes as fill the L2 cache three times."""
        cache = getattr(torch.cuda.get_device_properties(self.device), "L2_cache_size", 1 << 26) if self.on_gpu else 1
        return [make(seed) for seed in range(min(8, 1 + 3 * cache // max(1, size)))]

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def peak(self, call: Callable[[], Any]) -> float:
        """The memory that a call takes beside what is there, MB."""
        if not self.on_gpu:
            return math.nan
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6

    def randn(self, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(shape, generator=generator, device=self.device).to(dtype)


def line(row: Row) -> str:
    figures = {k: v for k, v in row.items() if k not in ("name", "error", "traceback", "took_s")}
    text = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
    return f"{row['name']}: " + "; ".join(part for part in (text, row.get("error", "")) if part)


def check(found: Tensor, expected: Tensor, tolerance: float) -> float:
    error = float((found.double() - expected.double()).norm() / expected.double().norm())
    if not error <= tolerance:
        raise WrongError(f"relative error {error:.2e}, at most {tolerance:.0e} allowed")
    return error


# The machine


def rates(bench: Bench) -> None:
    size = 1 << (20 if bench.small else 28)  # float32 elements

    def copy_rate() -> Row:
        source, target = bench.randn(size), torch.empty(size, device=bench.device)
        ms = bench.milliseconds(lambda _: target.copy_(source))
        bench.rates["bytes"] = 8 * size / ms * 1e3
        return {"ms": ms, "GB/s": bench.rates["bytes"] / 1e9}

    bench.row("copy, bytes read and written", copy_rate)
    n = 128 if bench.small else 8192
    for name in PRECISIONS:

        def matmul(name: str = name) -> Row:
            with precision(name) as dtype:
                a, b = bench.randn(n, n, seed=1, dtype=dtype), bench.randn(n, n, seed=2, dtype=dtype)
                ms = bench.milliseconds(lambda _: a @ b)
            bench.rates[name] = 2 * n**3 / ms * 1e3
            return {"ms": ms, "TFLOP/s": bench.rates[name] / 1e12}

        bench.row(f"matmul {n}, {name}", matmul)


def share(bench: Bench, name: str, work: float, ms: float) -> Row:
    """Achieved rate, and its share of the measured one."""
    rate = work / ms * 1e3
    unit = {"GB/s": rate / 1e9} if name == "bytes" else {"TFLOP/s": rate / 1e12}
    return {**unit, "share": rate / bench.rates[name] if name in bench.rates else math.nan}


# The weight kernels

LINEAR = {  # N, T, O, I
    "ViT-B/16 b64 qkv": (64, 197, 2304, 768),
    "ViT-B/16 b64 out": (64, 197, 768, 768),
    "ViT-B/16 b64 up": (64, 197, 3072, 768),
    "ViT-B/16 b64 down": (64, 197, 768, 3072),
    "BERT-base b64 query": (64, 128, 768, 768),
    "BERT-base b64 up": (64, 128, 3072, 768),
    "ViT-B/16 b64 head": (64, 1, 1000, 768),
}
CONVOLUTION = {  # N, O, I, size, kernel, stride
    "ResNet-18 b128 64": (128, 64, 64, 32, 3, 1),
    "ResNet-18 b128 64-128/2": (128, 128, 64, 32, 3, 2),
    "ResNet-18 b128 128": (128, 128, 128, 16, 3, 1),
    "ResNet-18 b128 256": (128, 256, 256, 8, 3, 1),
    "ResNet-18 b128 512": (128, 512, 512, 4, 3, 1),
    "ViT-B/16 b64 patches": (64, 768, 3, 224, 16, 16),
}


def linear(bench: Bench, name: str, sizes: tuple[int, int, int, int]) -> Row:
    n, t, o, i = (2, min(sizes[1], 5), 24, 40) if bench.small else sizes
    with precision(name) as dtype:
        make = lambda s: (bench.randn(n, t, o, seed=s, dtype=dtype), bench.randn(n, t, i, seed=s + 99, dtype=dtype))  # noqa: E731
        operands = bench.copies(make, n * t * (o + i) * dtype.itemsize)
        weights, result = torch.ones(1, n, device=bench.device), torch.zeros(1, o, i, device=bench.device)
        g, x = (operand[:2] for operand in operands[0])
        expected = torch.zeros_like(result, dtype=torch.float64)
        reference.fisher_linear(g.double(), x.double(), weights[:, :2].double(), expected)
        ops.fisher_linear(g, x, weights[:, :2].contiguous(), result)
        error = check(result, expected, TOLERANCE[name])
        run = lambda a: ops.fisher_linear(a[0], a[1], weights, result, overwrite=True)  # noqa: E731
        ms = bench.milliseconds(run, operands)
        plain = bench.milliseconds(lambda a: torch.bmm(a[0].mT, a[1]).square().sum(0, dtype=torch.float32), operands)
    work = 2.0 * n * t * o * i
    return {"ms": ms, **share(bench, name, work, ms), "bmm ms": plain, "x": plain / ms, "relative error": error}


def convolution(bench: Bench, name: str, sizes: tuple[int, int, int, int, int, int]) -> Row:
    n, o, i, size, kernel, stride = (2, 8, sizes[2] if sizes[2] < 8 else 8, *sizes[3:]) if bench.small else sizes
    padding = 1 if kernel == 3 else 0
    out = (size + 2 * padding - kernel) // stride + 1
    settings = ([stride] * 2, [padding] * 2, [1, 1], 1)
    with precision(name) as dtype:

        def make(seed: int) -> tuple[Tensor, Tensor]:
            grad = bench.randn(n, o, out, out, seed=seed, dtype=dtype)
            return grad, bench.randn(n, i, size, size, seed=seed + 99, dtype=dtype)

        operands = bench.copies(make, n * (o * out**2 + i * size**2) * dtype.itemsize)
        weights = torch.ones(1, n, device=bench.device)
        result = torch.zeros(1, o, i, kernel, kernel, device=bench.device)
        g, x = (operand[:2] for operand in operands[0])
        expected = torch.zeros_like(result, dtype=torch.float64)
        reference.fisher_convolution(g.double(), x.double(), weights[:, :2].double(), *settings, expected)
        ops.fisher_convolution(g, x, weights[:, :2].contiguous(), *settings, result)
        error = check(result, expected, TOLERANCE[name])
        run = lambda a: ops.fisher_convolution(a[0], a[1], weights, *settings, result, overwrite=True)  # noqa: E731
        ms = bench.milliseconds(run, operands)
    work = 2.0 * n * out**2 * o * i * kernel**2
    return {"ms": ms, **share(bench, name, work, ms), "relative error": error}


def kernels(bench: Bench) -> None:
    for name in PRECISIONS:
        for layer, sizes in LINEAR.items():
            bench.row(f"fisher_linear {layer}, {name}", lambda n=name, s=sizes: linear(bench, n, s))
        for layer, shape in CONVOLUTION.items():
            bench.row(f"fisher_convolution {layer}, {name}", lambda n=name, s=shape: convolution(bench, n, s))


# Whole models

Model = tuple[nn.Module, Tensor, Tensor]


def images(bench: Bench, size: int, batch: int, classes: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(batch, device=bench.device) % classes
    return bench.randn(batch, 3, size, size), labels


def residual(bench: Bench) -> nn.Sequential:
    """ResNet-18 for small images, its head last."""
    torch.manual_seed(0)
    if not bench.small:
        return networks.resnet18_cifar()
    blocks = (networks.BasicBlock(3, 8, 1), networks.BasicBlock(8, 16, 2))
    return networks.settled(nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10)))


def resnet(bench: Bench) -> Model:
    return residual(bench), *images(bench, 32, 4 if bench.small else 128, 10)


def vit(bench: Bench) -> Model:
    torch.manual_seed(0)
    if bench.small:
        return networks.settled(networks.ViT(32, 8, 32, 2, 2, 10)), *images(bench, 32, 3, 10)
    return networks.vit_base(), *images(bench, 224, 64, 1000)


def bert(bench: Bench) -> Model:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    batch, length, words = (3, 9, 50) if bench.small else (64, 128, 30522)
    model = networks.BertEncoder(words, 32, 2, 2, 2) if bench.small else networks.bert_base()
    tokens = torch.randint(words, (batch, length), generator=generator)
    return networks.settled(model), tokens.to(bench.device), torch.arange(batch, device=bench.device) % 2


MODELS = {"ResNet-18 CIFAR b128": (resnet, "tf32"), "ViT-B/16 b64": (vit, "bf16"), "BERT-base 128 b64": (bert, "bf16")}


def check_model(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """The largest relative error of a parameter's Fisher of two samples, both in float32: no sum may be in less."""
    with precision("fp32"):
        exact = peers.prepare("batch-1 loop", copy.deepcopy(model).double(), cross_entropy)
        x = inputs[:2].double() if inputs.is_floating_point() else inputs[:2]
        expected = exact(x, targets[:2])
        found = fastforget.fisher_diagonal(model, inputs[:2], targets[:2])
    largest = max(float(value.norm()) for value in expected.values())
    # The bias of keys has no gradient but rounding.
    kept = {name: value for name, value in expected.items() if float(value.norm()) > 1e-9 * largest}
    # A value at the kink of a ReLU may be rounded to its other side.
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
    """What a peer takes; of a part of the samples, times so many. Its limits are its own."""
    try:
        method = peers.prepare(peer, model, cross_entropy)
        took = bench.milliseconds(lambda _: method(*samples), rounds=3) * times
        return {f"{peer} ms": took, f"{peer} peak MB": bench.peak(lambda: method(*samples))}
    except Exception as error:  # noqa: BLE001
        return {f"{peer} ms": f"{type(error).__name__}: {error}".splitlines()[0][:120]}


# Lists of tensors


def shapes(bench: Bench) -> list[tuple[int, ...]]:
    """86.6M elements in 152 tensors, as in ViT-B/16."""
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
    ms = bench.milliseconds(lambda _: ops.select(scores, k))

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
    ms = bench.milliseconds(lambda _: ops.perturb(parameters, directions, mask, k, 1e-6))
    undo = bench.milliseconds(lambda _: ops.perturb_undo(parameters, mask, old))
    # At least the mask, and of each chosen element the direction and the old value read, both values written.
    bound = total / 8 + 16.0 * k

    def peer(_: Any) -> None:
        chosen = torch._foreach_mul(directions, masks)  # noqa: SLF001
        torch._foreach_add_(parameters, chosen, alpha=1e-6)

    plain = bench.milliseconds(peer)
    return {"ms": ms, "undo ms": undo, **share(bench, "bytes", bound, ms), "foreach ms": plain, "x": plain / ms}


def with_flat_vectors(tasks: list[list[Tensor]]) -> Tensor:
    """PCGrad without a wait for the device."""
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
    ms = bench.milliseconds(lambda _: fastforget.harmonize(*tasks, project="both", out=out))
    one_way = bench.milliseconds(lambda _: fastforget.harmonize(*tasks, project="forget", out=out))
    peer = {
        "cat/dot ms": bench.milliseconds(lambda _: with_flat_vectors(tasks)),
        "foreach ms": bench.milliseconds(lambda _: with_foreach(tasks)),
    }
    moved = 5.0 * sum(tensor.nbytes for tensor in out)  # both are read twice, one is written
    row = {"ms": ms, '"forget" ms': one_way, **share(bench, "bytes", moved, ms), **peer}
    return {**row, "x": min(peer.values()) / ms, "relative error": error}


def lists(bench: Bench) -> None:
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


# End to end


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
        if not forgotten and settings.get("rule") != "paper":  # which need not
            raise WrongError("the class is still recognised")
    parameters = list(model.parameters())
    plain = bench.milliseconds(
        lambda _: torch.autograd.grad(F.cross_entropy(model(codes.inputs), codes.labels), parameters)
    )
    parts = {f"{name} ms": 1e3 * median(p[name] for p in phases) for name in phases[0] if name != "total"}
    ms = median(taken)
    return {"ms": ms, "forward+backward ms": plain, "of forward+backward": ms / plain, **parts}


# The report


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def output_of(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def facts(device: torch.device) -> dict[str, Any]:
    found = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "driver": output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "fastforget": fastforget.__version__,
        "commit": os.environ.get("FASTFORGET_COMMIT") or output_of("git", "rev-parse", "--short", "HEAD"),
        "changed": bool(output_of("git", "status", "--porcelain", "--untracked-files=no")),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_GB": round(properties.total_memory / 1e9, 1),
            "L2_MB": round(getattr(properties, "L2_cache_size", 0) / 1e6, 1),
        }
    return found


def table(about: dict[str, Any], rows: list[Row]) -> str:
    """Markdown: what is common to most rows in columns, the rest behind."""
    columns = ("ms", "TFLOP/s", "GB/s", "share", "x", "of forward+backward", "relative error")
    hidden = {*columns, "name", "error", "traceback", "took_s"}
    number = lambda v: "" if v is None else f"{v:.3g}" if isinstance(v, float) else str(v)  # noqa: E731
    lines = [
        f"# {about['device']}",
        "",
        ", ".join(f"{key} {value}" for key, value in about.items() if key != "device"),
        "",
        "*share*: of the rate measured here, of the copy for GB/s, of the product in the same precision for TFLOP/s.",
        "*x*: the time of PyTorch's best way by ours.",
        "",
        "| | " + " | ".join(columns) + " | more |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for row in rows:
        more = ", ".join(f"{k} {number(v)}" for k, v in row.items() if k not in hidden and v is not None)
        more = "; ".join(part for part in (f"**{row['error']}**" if row.get("error") else "", more) if part)
        cells = [row["name"], *(number(row.get(column)) for column in columns), more]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="no row is begun after so long")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--small", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not ops.cuda_built():
        text = "gpu_bench: there must be a CUDA device and kernels for it (FASTFORGET_CUDA=1), got none"
        print(text, file=sys.stderr)
        return 1
    bench, about = Bench(device, small=arguments.small, seconds=arguments.seconds), facts(device)
    folder = Path(os.environ.get("OUT") or Path(__file__).parent / "results")

    def save() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / f"gpu-{slug(about['device'])}"
        stem.with_suffix(".json").write_text(json.dumps({"facts": about, "rows": bench.rows}, indent=1) + "\n")
        stem.with_suffix(".md").write_text(table(about, bench.rows))

    if device.type == "cuda" and not arguments.small:
        bench.save = save
    rates(bench)
    kernels(bench)
    lists(bench)
    for name, (build, kind) in MODELS.items():
        bench.row(f"fisher_diagonal {name}, {kind}", lambda b=build, k=kind: whole(bench, b, k))
    for name, settings in {"natural": {}, "natural, kept Fisher": {"kept": True}, "paper": {"rule": "paper"}}.items():
        bench.row(f"one_shot ResNet-18 CIFAR, {name}", lambda s=settings: forgetting(bench, **s))
    print("\n" + table(about, bench.rows))
    return int(any(row.get("error") for row in bench.rows))


if __name__ == "__main__":
    sys.exit(main())
