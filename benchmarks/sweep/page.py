"""Write docs/results/architectures.md from the rows of the sweep."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from architectures import ARCHITECTURES, LARGE
from verdicts import TOLERANCE

Row = dict[str, Any]

PAGE = Path(__file__).parents[2] / "docs" / "results" / "architectures.md"
FLOAT64_TOLERANCE = 1e-7
FUSED = 0.95  # the share of the parameters from which an architecture counts as fused
SLOW = 1.3

INTRODUCTION = """# Architectures

**What was measured.** The diagonal Fisher of every parameter of {count} models of transformers and
timm, built from small configurations with random weights: text padded to one length with attention
masks, labels per sample, per token or per pixel. It is compared with autograd on one sample at a
time in float64, parameter by parameter.

**How.** `make sweep`, rows taken {date}, PyTorch {torch}.
Nothing starts at zero or one: noise is added to every parameter. Each sample of the reference is
run twice, in a batch of two: PyTorch's backward of batch norm is wrong for some single samples. A
finite difference along one direction confirms the reference.

**What to see.** {right} of {count} are right, {wrong} wrong, {refused} refused. In {fused} of them
the fused path serves at least {share:.0%} of the parameters.

* *Error*: the largest of all parameters, norm of the difference ÷ norm. Above {tolerance:g} the model
  was measured in float64 as well, and is right if the error is at most {float64:g} there. The float32
  error of the plain loop is beside it: what is lost is lost to rounding. **Wrong** differs in float64 as
  well, where the model has run before.
* *Fused*: the share of the parameters that kernels served, also by way of a tensor that was computed
  from them. The others took the exact path, sample by sample; why is in the last column.
* *Time*: of `fisher_diagonal`, divided by that of one forward and backward, processor time of one
  thread. These models are so small that Python's time shows, not that of the kernels. The second
  table is about time.
"""
LARGER = """
## Time

Hidden size 256 or more, batches of 16, texts of 64 tokens. {fast} of {count} take at most {slow:g}
times a plain step.

| family | model | parameters | fused | time |
|---|---|--:|--:|--:|"""


def rows_of(name: str, folder: Path) -> dict[str, Row]:
    """Return the rows of a file, by model."""
    return {row["model"]: row for row in json.loads((folder / f"{name}.json").read_text())["rows"]}


def is_right(row: Row) -> bool:
    return row["verdict"] in ("ok", "rounding")


def error_of(row: Row) -> str:
    """Return the largest error, and what it is in float64 and in a plain loop, if it is large."""
    if "error" not in row:
        return row["verdict"]
    words = f"{row['error']:.0e}"
    if "float64_error" in row:
        words += f"; float64 {row['float64_error']:.0e}; loop {row['loop_error']:.0e}"
    return words if is_right(row) else f"**{row['verdict']}**: {words}"


def line(row: Row) -> str:
    reasons = "; ".join(f"{reason} ({share:.1%})" for reason, share in row.get("fallback", {}).items())
    fused = f"{row['fused']:.1%}" if "fused" in row else ""
    ratio = f"{row['ratio']:.1f}" if "ratio" in row else ""
    cells = (row["family"], row["model"], f"{row.get('parameters', 0):,}", error_of(row), fused, ratio)
    return f"| {' | '.join(cells)} | {row.get('why') or reasons} |"


def lines(folder: Path) -> Iterator[str]:
    """Yield the lines of the page."""
    found, large = rows_of("architectures", folder), rows_of("architectures-large", folder)
    rows = [found[name] for name in ARCHITECTURES if name in found]
    verdicts = [row["verdict"] for row in rows]
    yield INTRODUCTION.format(
        count=len(rows),
        right=sum(map(is_right, rows)),
        wrong=verdicts.count("wrong"),
        refused=verdicts.count("refused") + verdicts.count("failed"),
        fused=sum(row.get("fused", 0) >= FUSED for row in rows),
        share=FUSED,
        date=" and ".join(sorted({row["date"] for row in rows})),
        torch=rows[0]["torch"],
        tolerance=TOLERANCE,
        float64=FLOAT64_TOLERANCE,
    )
    yield "| family | model | parameters | error | fused | time | exact path, sample by sample |"
    yield "|---|---|--:|---|--:|--:|---|"
    yield from map(line, rows)
    timed = [large[name] for name in LARGE if name in large]
    if timed:
        yield LARGER.format(count=len(timed), fast=sum(row.get("ratio", 9) <= SLOW for row in timed), slow=SLOW)
        for row in timed:
            cells = (
                row["family"],
                row["model"],
                f"{row['parameters']:,}",
                f"{row['fused']:.1%}",
                f"{row['ratio']:.2f}",
            )
            yield f"| {' | '.join(cells)} |"


def write(folder: Path) -> None:
    """Write the page from the rows in a folder."""
    PAGE.write_text("\n".join(lines(folder)) + "\n")
