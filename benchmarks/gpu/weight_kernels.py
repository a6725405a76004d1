"""The kernels of weights, beside PyTorch's batched product."""

from __future__ import annotations

import torch
from gpu.measuring import TOLERANCE, Bench, Row, check, precision
from gpu.rates import share
from torch import Tensor

from fastforget import ops
from fastforget.ops import reference

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
        ms = bench.replayed(run, operands)
        plain = bench.replayed(lambda a: torch.bmm(a[0].mT, a[1]).square().sum(0, dtype=torch.float32), operands)
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
        ms = bench.replayed(run, operands)
    work = 2.0 * n * out**2 * o * i * kernel**2
    return {"ms": ms, **share(bench, name, work, ms), "relative error": error}


def kernels(bench: Bench, name: str) -> None:
    for layer, sizes in LINEAR.items():
        bench.row(f"fisher_linear {layer}, {name}", lambda s=sizes: linear(bench, name, s))
    for layer, shape in CONVOLUTION.items():
        bench.row(f"fisher_convolution {layer}, {name}", lambda s=shape: convolution(bench, name, s))


def vit_in_all(bench: Bench) -> Row:
    """Add up the rows of the weights of ViT-B/16, twelve times those of a block: the bar is on all of them."""
    found = {row["name"]: row for row in bench.rows}
    block = [found[f"fisher_linear ViT-B/16 b64 {layer}, bf16"] for layer in ("qkv", "out", "up", "down")]
    once = [found["fisher_linear ViT-B/16 b64 head, bf16"], found["fisher_convolution ViT-B/16 b64 patches, bf16"]]
    ms = 12 * sum(row["ms"] for row in block) + sum(row["ms"] for row in once)
    work = 12 * sum(2.0 * 64 * t * o * i for _, t, o, i in list(LINEAR.values())[:4])
    return {"ms": ms, **share(bench, "bf16", work, ms)}
