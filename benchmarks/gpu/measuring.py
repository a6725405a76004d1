"""Rows of figures, and how they are timed and checked."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from statistics import median
from typing import Any

import torch
from torch import Tensor

ROUNDS, SECONDS_PER_TIMING = 15, 2.0
PRECISIONS = {"bf16": torch.bfloat16, "tf32": torch.float32, "fp32": torch.float32}
# Relative to the norm, against float64 sums over the same rounded operands.
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
        self._not_recorded: list[str] = []  # why calls of this row were not timed by a graph

    def row(self, name: str, run: Callable[[], Row]) -> None:
        """Add a row, whatever happens in it."""
        started = time.monotonic()
        found: Row = {"name": name}
        self._not_recorded.clear()
        try:
            found |= {"error": "not run: out of time"} if started > self.ends else run()
        except Exception as error:  # noqa: BLE001 - the other rows must still run
            found["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            found["traceback"] = traceback.format_exc()
        if self._not_recorded:
            found["not by a graph"] = self._not_recorded[0]
        found["took_s"] = round(time.monotonic() - started, 2)
        self.rows.append(found)
        print(line(found), flush=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.save()

    def milliseconds(
        self, call: Callable[[Any], Any], arguments: Sequence[Any] = (None,), rounds: int = ROUNDS
    ) -> float:
        """Return the median time of a call on each of its arguments in turn. Short calls are timed several in a row."""
        turns = cycle(arguments)
        self._took(call, turns, 1)
        once = self._took(call, turns, 1)
        calls = max(1, min(20, int(1 / once))) if self.on_gpu else 1
        found: list[float] = []
        budget = time.monotonic() + SECONDS_PER_TIMING
        while len(found) < (2 if self.small else rounds) and (not found or time.monotonic() < budget):
            found.append(self._took(call, turns, calls))
        return median(found)

    def replayed(self, call: Callable[[Any], Any], arguments: Sequence[Any] = (None,), rounds: int = ROUNDS) -> float:
        """Return the median time of a call that a CUDA graph launches: without the host, which short calls wait for.

        Where a call cannot be recorded, it is timed as it is called, and its row says so.
        """
        if not self.on_gpu:
            return self.milliseconds(call, arguments, rounds)
        once = self.milliseconds(call, arguments, 1)
        turns = max(1, min(20, int(1 / once)) // len(arguments)) * len(arguments)
        try:
            graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                call(arguments[0])  # libraries take their workspaces
            torch.cuda.current_stream().wait_stream(aside)
            with torch.cuda.graph(graph):
                for turn in range(turns):
                    call(arguments[turn % len(arguments)])
        except RuntimeError as error:
            self._not_recorded.append(f"{type(error).__name__}: {error}".splitlines()[0][:120])
            return self.milliseconds(call, arguments, rounds)
        return self.milliseconds(lambda _: graph.replay(), rounds=rounds) / turns

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
        """Return as many arguments of ``size`` bytes as fill the L2 cache three times."""
        cache = getattr(torch.cuda.get_device_properties(self.device), "L2_cache_size", 1 << 26) if self.on_gpu else 1
        return [make(seed) for seed in range(min(8, 1 + 3 * cache // max(1, size)))]

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def peak(self, call: Callable[[], Any]) -> float:
        """Return the memory that a call takes beyond what is in use, MB."""
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
