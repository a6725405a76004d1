"""The tables of what is left inside, from the rows of `inside.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean

from common import Row
from tables import groups, load, markdown, signed

SHOWN = ["old_row", "usual_bias", "best_bias", "probe", "nearest_mean", "again_5", "again_20", "again_50"]
HEADER = ("forget: mean, worst", "rest: mean, worst class", "log-odds: class, stand-ins", *SHOWN, "s")
# In the order of the tables, each with the networks that it is for.
WITH_CODES = ["original", "codes, output row alone", "codes", "codes and 16 images", "retrain"]
WITHOUT_CODES = ["original", "4 images of the rest", "4 images as codes", "16 images as codes", "16 images"]

UNLEARNING = ["original", "learn to unlearn, without the row", "learn to unlearn", "retrain"]


def figures(rows: Sequence[Row]) -> tuple[str, ...]:
    forget = [row["forget"] for row in rows]
    change = mean(row["rest"] - row["base"] for row in rows)
    shown = (f"{mean(row[key] for row in rows):.1f}" for key in SHOWN)
    odds = ", ".join(f"{mean(row[key] for row in rows):.1f}" for key in ("odds", "stand_in"))
    return (
        f"{mean(forget):.1f}, {max(forget):.1f}",
        signed(change, min(row["worst"] for row in rows)),
        odds.replace("-", "\N{MINUS SIGN}"),
        *shown,
        f"{mean(row['seconds'] for row in rows):.1f}",
    )


def retrained_too(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of networks and classes that were trained again; all where none was."""
    known = {(row["seed"], *row["classes"]) for row in rows if row["method"] == "retrain"}
    return [row for row in rows if (row["seed"], *row["classes"]) in known] or list(rows)


def one_class(codes: bool, methods: Sequence[str], needed: str = "original") -> str:
    """Return the table of some edits, of the problems that one of them was made on."""
    rows = [row for row in load("inside") if row["codes"] == codes and len(row["classes"]) == 1]
    problems = {row["problem"] for row in rows if row["method"] == needed}
    rows = [row for row in rows if row["problem"] in problems]
    lines: list[Sequence[object]] = []
    for (problem,), of_problem in groups(rows, "problem").items():
        found = groups(retrained_too(of_problem), "method")
        known = [(method, found[(method,)]) for method in methods if (method,) in found]
        lines += [(problem, method, len(chosen), *figures(chosen)) for method, chosen in known]
    return markdown(("problem", "edit", "edits", *HEADER), lines)


def unseen_depth() -> str:
    """Return how deep a class never seen lies, and how deep `one_shot` puts one by default, by way of training."""
    lines = []
    for (network, optimizer, epochs, smoothing), rows in groups(
        load("unseen-depth"), "network", "optimizer", "epochs", "smoothing"
    ).items():
        own, stand_in, usual = (mean(row[key] for row in rows) for key in ("own", "stand_in", "usual"))
        how = f"{optimizer}, {epochs} epochs" + (f", labels smoothed by {smoothing:g}" if smoothing else "")
        lines.append((network, how, f"{own:.1f}", f"{stand_in / own:.2f}", f"{usual:.1f}", signed(usual - own)))
    header = ("network", "training", "class never seen", "stand-ins, share", "default of `output_depth`", "difference")
    return markdown(header, lines)


def several() -> str:
    rows = [dict(row, count=len(row["classes"])) for row in load("inside") if len(row["classes"]) > 1]
    lines = [
        (problem, count, method, len(chosen), *figures(chosen))
        for (problem, count, method), chosen in groups(rows, "problem", "count", "method").items()
    ]
    lines.sort(key=lambda line: (line[0], line[1], line[2]))
    return markdown(("problem", "classes", "edit", "edits", *HEADER), lines)


def brief() -> str:
    """Return the table of the README, of digits: what is inside after an edit, beside a network trained again."""
    rows = [row for row in load("inside") if row["problem"] == "digits/cnn" and row["codes"]]
    found = groups(retrained_too([row for row in rows if len(row["classes"]) == 1]), "method")
    names = {"original": "original", "codes": "from codes", "codes and 16 images": "with 16 images of each class"}
    lines = [
        (title, *(f"{mean(row[key] for row in found[(method,)]):.1f}" for key in ("forget", "again_5", "probe")))
        for method, title in {**names, "retrain": "trained again"}.items()
        if (method,) in found
    ]
    return markdown(("digits", "class", "learnt again", "probe"), lines)


TABLES: dict[str, Callable[[], str]] = {
    "inside": lambda: one_class(True, WITH_CODES),
    "inside-without-codes": lambda: one_class(False, WITHOUT_CODES),
    "inside-several": several,
    "inside-unlearning": lambda: one_class(True, UNLEARNING, needed="learn to unlearn"),
    "inside-brief": brief,
    "unseen-depth": unseen_depth,
}
