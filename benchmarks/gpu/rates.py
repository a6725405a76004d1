"""The rates that the machine reaches, and a row's share of them."""

from __future__ import annotations

import math

import torch
from gpu.measuring import PRECISIONS, Bench, Row, precision


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
    """Return the achieved rate, and its share of the measured one."""
    rate = work / ms * 1e3
    unit = {"GB/s": rate / 1e9} if name == "bytes" else {"TFLOP/s": rate / 1e12}
    return {**unit, "share": rate / bench.rates[name] if name in bench.rates else math.nan}
