"""The tables and the plot of docs/results/comparison.md and docs/results/learn-to-unlearn.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from common import Row
from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from tables import groups, load, markdown

FAST = 10  # times faster than retraining: a slower method is not worth its inexactness
TITLES = {"class": "a class", "random": "a tenth of the samples, drawn at random"}
PARTS = ("forget", "remain", "test")


def compared(name: str) -> Iterator[tuple[tuple[str, str, int], str, list[Row]]]:
    """Yield (problem, scenario, remaining), a method and its rows with ``gap`` and ``faster``, also for retraining."""
    goals = {(row["problem"], row["scenario"], row["seed"]): row for row in load(name) if row["method"] == "retrain"}
    rows = [row for row in load(name) if row["method"] != "retrain"]
    for place, chosen in groups(rows, "problem", "scenario", "remaining").items():
        seeds = sorted({row["seed"] for row in chosen})
        retrained = [goals[place[0], place[1], seed] for seed in seeds]  # type: ignore[index]
        for (method,), found in groups([*retrained, *chosen], "method").items():
            yield place, str(method), [judged(row, goals) for row in found]  # type: ignore[misc]


def judged(row: Row, goals: dict[tuple[str, str, int], Row]) -> Row:
    """Return a row with its gap to the retrained network."""
    goal = goals[row["problem"], row["scenario"], row["seed"]]
    apart = [abs(row[part] - goal[part]) for part in PARTS]
    attacks = {name: abs(area - goal["membership"][name]) for name, area in row["membership"].items()}
    return {
        **row,
        "gap": mean([*apart, attacks["loss"]]),
        "worst": mean([*apart, max(attacks.values())]),
        "faster": goal["seconds"] / max(row["seconds"], 0.05),
    }


def line(method: str, rows: Sequence[Row], *, bold: bool) -> tuple[str, ...]:
    accuracies = [f"{mean(row[part] for row in rows):.1f}" for part in PARTS]
    area = f"{mean(row['membership']['loss'] for row in rows):.1f}"
    gaps = [f"{mean(row[key] for row in rows):.2f}" for key in ("gap", "worst")]
    most = max(row["gap"] for row in rows)
    seconds, faster = (mean(row[key] for row in rows) for key in ("seconds", "faster"))
    if method in {"retrain", "original"}:
        times = f"{seconds:.0f}", "1" if method == "retrain" else ""
    else:
        times = f"{seconds:.1f}", f"{faster:.0f}"
    shown = f"**{gaps[0]}**" if bold else gaps[0]
    return (method, *accuracies, area, shown, f"{most:.2f}", gaps[1], *times)


HEADER = ("method", "forget", "remain", "test", "attack", "average gap", "worst network", "worst attack")
HEADER = (*HEADER, "CPU seconds", "times faster")


def tables(name: str) -> str:
    """Return a table for each network, task and share of the remaining data, sorted by the gap."""
    found: dict[tuple[str, str, int], dict[str, list[Row]]] = {}
    for place, method, rows in compared(name):
        found.setdefault(place, {})[method] = rows
    parts = []
    for (problem, scenario, remaining), methods in sorted(found.items(), key=_place):
        if len(methods) == 2:  # retraining and one other method: see `shares`
            continue
        order = sorted(methods, key=lambda method: (method != "retrain", mean(row["gap"] for row in methods[method])))
        best = next((method for method in order if fast(method, methods[method])), None)
        lines = [line(method, methods[method], bold=method == best) for method in order]
        networks = max(map(len, methods.values()))
        title = f"### {problem}: {TITLES[scenario]}, {remaining} % of what remains at hand"
        counted = f"{networks} network{'s' * (networks > 1)}."
        parts.append(f"{title}\n\n{counted}\n\n{markdown(HEADER, lines)}")
    return "\n\n".join(parts)


def fast(method: str, rows: Sequence[Row]) -> bool:
    return method not in {"retrain", "original"} and mean(row["faster"] for row in rows) >= FAST


def leaders() -> str:
    """Return for each task the three smallest gaps among methods that are fast enough."""
    found: dict[tuple[str, str, int], list[tuple[float, str]]] = {}
    for place, method, rows in compared("study"):
        if fast(method, rows):
            found.setdefault(place, []).append((mean(row["gap"] for row in rows), method))
    lines = []
    for (problem, scenario, remaining), gaps in sorted(found.items(), key=_place):
        three = [f"{method} {gap:.2f}" for gap, method in sorted(gaps)[:3]]
        if len(three) == 3:  # some shares have rows of one method only
            lines.append((problem, TITLES[scenario], f"{remaining} %", *three))
    return markdown(("network", "to forget", "of what remains", "first", "second", "third"), lines)


def rates() -> str:
    """Return for each method and task the smallest gap over all learning rates."""
    found: dict[tuple[str, str, int], dict[str, list[tuple[float, str]]]] = {}
    for place, method, rows in compared("study-rates"):
        name, _, rate = method.partition(", learning rate ")
        if rate:
            found.setdefault(place, {}).setdefault(name, []).append((mean(row["gap"] for row in rows), rate))
    lines = []
    for (problem, scenario, _), methods in sorted(found.items(), key=_place):
        for name, gaps in methods.items():
            gap, rate = min(gaps)
            papers = next(value for value, times in gaps if times == "1 times")
            lines.append((problem, TITLES[scenario], name, f"{papers:.2f}", f"{gap:.2f}", rate))
    return markdown(("network", "to forget", "method", "gap as published", "smallest gap", "learning rate"), lines)


def shares() -> str:
    """Return the rows of `learn_to_unlearn`, sorted by the share of the remaining data."""
    lines = []
    for (problem, scenario, remaining), method, rows in compared("study"):
        if method == "learn to unlearn":
            lines.append((problem, scenario, -remaining, len(rows), *line(method, rows, bold=False)[1:7]))
    lines.sort(key=lambda found: (found[0].startswith("cifar"), *found[:3]))
    shown = [(problem, TITLES[scenario], f"{-share} %", *rest) for problem, scenario, share, *rest in lines]
    return markdown(("network", "to forget", "of what remains", "networks", *HEADER[1:7]), shown)


def ranks() -> str:
    shown = ["original", "within", "twins", "apart_original", "apart_twins", "second"]
    lines = [
        (f"{row['problem']}, seed {row['seed']}", *[f"{row[key]:.2f}" for key in shown]) for row in load("study-ranks")
    ]
    return markdown(("network", *[f"`{key}`" for key in shown]), lines)


def _place(item: tuple[tuple[str, str, int], object]) -> tuple[object, ...]:
    (problem, scenario, remaining), _ = item
    return problem.startswith("cifar"), scenario, remaining


def draw(file: Path) -> None:
    """Plot the gap against the time."""
    found: dict[tuple[str, str, int], dict[str, list[Row]]] = {}
    for place, method, rows in compared("study"):
        if place[2] == 10 and method != "retrain":
            found.setdefault(place, {})[method] = rows
    if not found:
        return
    figure, axes = plt.subplots(1, len(found), figsize=(4 * len(found), 4), layout="constrained", squeeze=False)
    for axis, ((problem, scenario, _), methods) in zip(axes[0], sorted(found.items(), key=_place), strict=True):
        nothing = mean(row["gap"] for row in methods.pop("original"))
        axis.axhline(nothing, color="0.7", linewidth=1, linestyle=":")
        axis.annotate("nothing done", (FAST, nothing), fontsize=6, xytext=(3, 3), textcoords="offset points")
        for method, rows in methods.items():
            at = mean(row["faster"] for row in rows), mean(row["gap"] for row in rows)
            ours = method.startswith(("learn", "one-shot"))
            axis.scatter(*at, s=14, color="C3" if ours else "0.4")
            if at[1] < 0.9 * nothing or at[1] > 1.1 * nothing:  # there is no room to name the others
                axis.annotate(method, at, fontsize=6, xytext=(3, 2), textcoords="offset points")
        axis.axvline(FAST, color="0.7", linewidth=1)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlim(4, 900)
        for one, ticks in ((axis.xaxis, (10, 100)), (axis.yaxis, (1, 2, 5, 10, 20, 50))):
            one.set_major_locator(FixedLocator(ticks))
            one.set_major_formatter(StrMethodFormatter("{x:g}"))
            one.set_minor_locator(NullLocator())
        axis.set_title(f"{problem}\n{TITLES[scenario]}", fontsize=8)
        axis.set_xlabel("times faster than training again", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("average gap to it, points", fontsize=8)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


TABLES = {
    "leaders": leaders,
    "rates": rates,
    "ranks": ranks,
    "shares": shares,
    "comparison": lambda: tables("study"),
    "ablations": lambda: tables("study-ablations"),
}
