"""What benchmarks share: the ``compared`` fixture, the number of threads, and the facts about the machine.

A benchmark hands its candidates to ``compared``. That times them in turn (see ``alternate``) and files the times in
pytest-benchmark's JSON. One test is one *group*, at one and at two threads::

    def test_select(compared):
        verdicts = {"numpy.partition": "ok", "torch.sort": "wrong: 3 of 62 tensors"}   # checked before they are timed
        compared("select 11M, 1 %", {"one read": f, "fastforget": g, "numpy.partition": h}, verdicts=verdicts)

* The first candidate is the baseline that the table divides by. A candidate named ``fastforget`` is ours.
* Candidates in ``few`` are slow. They take part in ``--few`` rounds instead of ``--rounds``.
* ``verdicts`` appear in the table. A candidate that is wrong, fails or is not installed has a verdict and no time.
* ``figures`` are further numbers by name, such as bytes divided by bytes.

``extra_info`` then holds ``group``, ``threads``, ``clock``, ``baseline``, ``seconds`` (by candidate and round),
``ratios`` (to the baseline: median, quartiles, rounds), ``verdicts`` and ``figures``. ``bars.toml`` refers to a group
and a figure. A figure ``"a / b"`` is the ratio of two candidates' times, the median over rounds.

With ``--benchmark-disable`` everything runs once and nothing is timed. ``smoke`` is then True, for smaller sizes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pytest

if "torch" not in sys.modules:  # OpenMP reads the variable when it is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from alternate import alternate, clock, ratio
from machine import facts as machine_facts


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=15, help="rounds of each comparison")
    parser.addoption("--few", type=int, default=3, help="rounds in which slow candidates take part")


def pytest_configure() -> None:
    policy = os.environ.get("OMP_WAIT_POLICY", "unset")
    if policy.upper() != "PASSIVE":
        raise pytest.UsageError(
            f"OMP_WAIT_POLICY must be PASSIVE for benchmarks, got {policy}: threads that spin disturb"
        )


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info["fastforget"] = machine_facts()


def pytest_benchmark_update_commit_info(commit_info: dict[str, Any]) -> None:
    """Record whether the sources differ from the commit. Recorded results do not count as sources."""
    command = ["git", "status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/benchmarks/results"]
    try:
        changed = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return
    commit_info["dirty"] = bool(changed.strip())


@pytest.fixture(params=[1, 2], ids=["1-thread", "2-threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def smoke(request: pytest.FixtureRequest) -> bool:
    """Say whether this run only shows that everything works, without timing it."""
    option = request.config.getoption
    return bool(option("benchmark_disable") and not option("benchmark_enable"))


@pytest.fixture
def compared(benchmark: Any, threads: int, smoke: bool, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Time candidates in turn; see the top of this file."""
    option = request.config.getoption

    def run(
        group: str,
        candidates: Mapping[str, Callable[[], Any]],
        *,
        few: Iterable[str] = (),
        verdicts: Mapping[str, str] | None = None,
        figures: Mapping[str, float] | None = None,
    ) -> None:
        rounds, limits = (1, {}) if smoke else (option("rounds"), dict.fromkeys(few, option("few")))
        seconds: dict[str, list[float]] = {}
        benchmark.group = f"{group} [{threads} thread{'s' if threads > 1 else ''}]"
        settings = {"clock": clock(threads), "few": limits, "warm_up": not smoke}
        benchmark.pedantic(lambda: seconds.update(alternate(candidates, rounds, **settings)))
        baseline = next(iter(candidates))
        benchmark.extra_info.update(
            group=group,
            threads=threads,
            clock="process CPU time" if threads == 1 else "wall time",
            baseline=baseline,
            seconds=seconds,
            ratios={name: asdict(ratio(seconds, name, baseline)) for name in candidates},
            verdicts=dict(verdicts or {}),
            figures=dict(figures or {}),
        )

    return run
