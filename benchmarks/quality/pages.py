"""Write the tables and plots of the pages in docs/ from benchmarks/results/quality.

The text between ``<!-- table: NAME -->`` and ``<!-- end -->`` is replaced. The rest of the pages is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import correlation, mean

import audit_tables
import inside_tables
import matplotlib as mpl
import study_tables
from common import Row
from matplotlib import pyplot as plt
from settings import DEFAULT
from tables import groups, load, markdown, signed

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NAMES = ("results/one-shot.md", "results/comparison.md", "results/learn-to-unlearn.md", "results/serving.md")
NAMES += ("results/audit.md",)
PAGES = (*(DOCS / name for name in NAMES), ROOT / "README.md")
ORDER = ["digits/cnn", "fashion/mlp", "fashion/resnet", "fashion/vit", "cifar10/resnet", "docstrings/transformer"]
ORDER += ["fashion+digits/resnet"]
FORGET, CHANGE = 0.5, -0.5


def forgetting(rows: Sequence[Row], key: str = "forget") -> str:
    values = [row[key] for row in rows]
    return f"{mean(values):.2f}, {max(values):.2f}"


def damage(rows: Sequence[Row]) -> str:
    values = [row["change"] for row in rows]
    return signed(mean(values), min(values))


def one_class() -> str:
    rows = [row for row in load("one-class") if row["method"] != "natural, deeper"]
    found = groups(rows, "problem", "per_class", "method")
    names = list(dict.fromkeys(row["method"] for row in rows))
    names = ["natural", "natural, its step alone", *[name for name in names if "natural" not in name]]
    lines = []
    for problem in ORDER:
        for per_class in (4, 1):
            for name in names:
                chosen = found.get((problem, per_class, name))
                if not chosen:
                    continue
                good = sum(row["forget"] <= FORGET and row["change"] >= CHANGE for row in chosen)
                title = f"{problem}, {per_class} code{'s' * (per_class > 1)}" if name == "natural" else ""
                lines.append((title, name, forgetting(chosen), damage(chosen), f"{good} of {len(chosen)}"))
    return markdown(
        ("problem", "method", "forget accuracy: mean, worst", "change of the rest: mean, worst", "ok"), lines
    )


def summary() -> str:
    """Return a table with a line for each problem."""
    found = groups([row for row in load("one-class") if row["per_class"] == 4], "problem", "method")
    lines = []
    for problem in ORDER:
        rows = found.get((problem, "natural"), [])
        if rows:
            seeds = len({row["seed"] for row in rows})
            good = sum(row["forget"] <= FORGET and row["change"] >= CHANGE for row in rows)
            left = mean(row["forget"] for row in found[problem, "natural, its step alone"])
            lines.append((problem, seeds, forgetting(rows), damage(rows), f"{good} of {len(rows)}", f"{left:.1f}"))
    header = ("problem", "networks", "forget accuracy: mean, worst", "change of the rest: mean, worst", "ok")
    return markdown((*header, "forget accuracy by the step alone"), lines)


def worst_classes() -> str:
    found = groups([row for row in load("one-class") if row["method"] == "natural"], "problem", "per_class")
    lines = []
    for (problem, per_class), rows in sorted(
        found.items(), key=lambda item: (ORDER.index(str(item[0][0])), -item[0][1])
    ):
        row = min(rows, key=lambda row: row["change"])
        lines.append((problem, per_class, row["seed"], row["cls"], f"{row['base']:.2f}", signed(row["change"])))
    header = ("problem", "codes", "seed", "class", "remaining accuracy before", "change")
    return markdown(header, lines)


def settings() -> str:
    lines, names = [], list(DEFAULT)
    for (problem, *values), rows in groups(load("settings"), "problem", *names).items():
        change = [(name, value) for name, value in zip(names, values, strict=True) if value != DEFAULT[name]]
        what = ", ".join(f"`{name}` = {value}" if name != "moving" else "embeddings move" for name, value in change)
        place = ORDER.index(str(problem)), [(names.index(name), value) for name, value in change]
        lines.append((place, (problem, what or "nothing", forgetting(rows, "forget_step_alone"), damage(rows))))
    header = ("problem", "changed", "forget accuracy by the step alone: mean, worst", "change of the rest: mean, worst")
    return markdown(header, [line for _, line in sorted(lines)])


def several() -> str:
    lines = []
    rows = [dict(row, count=len(row["classes"])) for row in load("several")]
    for (problem, count, method), chosen in groups(rows, "problem", "count", "method").items():
        lines.append((problem, count, method, forgetting(chosen), damage(chosen), len(chosen)))
    lines.sort(key=lambda line: (ORDER.index(line[0]), line[1], line[2] != "natural", line[2]))
    header = (
        "problem",
        "classes",
        "method",
        "forget accuracy: mean, worst",
        "change of the rest: mean, worst",
        "calls",
    )
    return markdown(header, lines)


def in_sequence() -> str:
    lines = []
    for (problem, seed, mode), rows in groups(load("in-sequence"), "problem", "seed", "mode").items():
        last = max(rows, key=lambda row: row["place"])
        lines.append(
            (
                f"{problem}, seed {seed}",
                mode,
                last["place"] + 1,
                f"{max(row['forget'] for row in rows):.2f}",
                f"{last['forget_step_alone']:.2f}",
                signed(min(row["change"] for row in rows), last["change"]),
                f"{mean(row['seconds'] for row in rows):.2f}",
            )
        )
    header = ("problem", "Fisher", "requests", "forget accuracy, worst", "with the biases back, at the end")
    return markdown((*header, "change of the rest: worst, at the end", "CPU seconds per request"), lines)


def without_codes() -> str:
    lines = []
    for (problem, remedy), rows in groups(load("without-codes"), "problem", "remedy").items():
        lines.append(
            (
                problem,
                remedy,
                f"{mean(row['known'] for row in rows):.0f}",
                signed(mean(row["lost_by_remedy"] for row in rows)),
                f"{mean(row['seconds'] for row in rows):.1f}",
                forgetting(rows),
                forgetting(rows, "forget_step_alone"),
                damage(rows),
            )
        )
    header = (
        "problem",
        "codes",
        "known, %",
        "accuracy lost by the remedy",
        "CPU seconds",
        "forget accuracy: mean, worst",
    )
    return markdown((*header, "by the step alone", "change of the rest: mean, worst"), lines)


def code_kinds() -> str:
    lines = []
    for (problem, kind, count, rate, mixed), rows in groups(
        load("code-kinds"), "problem", "distribution", "per_class", "rate", "mixed"
    ).items():
        lines.append(
            (
                problem,
                f"{kind}, mixed" if mixed else kind,
                count,
                rate,
                signed(mean(row["against_no_codes"] for row in rows)),
                signed(mean(row["depth_mean"] for row in rows)),
                f"{mean(r['step_alone_mean'] for r in rows):.1f}, {max(r['step_alone_worst'] for r in rows):.1f}",
                signed(min(row["change_worst"] for row in rows)),
            )
        )
    header = ("problem", "drawn from", "per class", "rate", "accuracy against no codes", "depth reached, nats")
    return markdown((*header, "forget accuracy by the step alone: mean, worst", "worst change of the rest"), lines)


def many_classes() -> str:
    lines = []
    for (classes, count, rate), rows in groups(load("many-classes"), "classes", "per_class", "rate").items():
        lines.append(
            (
                classes,
                count,
                rate,
                f"{mean(row['accuracy'] for row in rows):.1f}",
                signed(mean(row["against_no_codes"] for row in rows)),
                f"{mean(row['known'] for row in rows):.1f}",
                sum(row["forgotten"] for row in rows),
                f"{max(row['forget_worst'] for row in rows):.2f}",
                f"{mean(r['step_alone_mean'] for r in rows):.1f}, {max(r['step_alone_worst'] for r in rows):.1f}",
                signed(mean(row["change_mean"] for row in rows), min(row["change_worst"] for row in rows)),
            )
        )
    lines.sort(key=lambda line: (line[0], -line[1], -line[2]))
    header = ("classes", "codes per class", "rate", "accuracy", "against no codes", "known, %", "forgotten")
    titles = ("forget accuracy: worst", "by the step alone: mean, worst", "change of the rest: mean, worst")
    return markdown((*header, *titles), lines)


def what_remains() -> str:
    shown = ["bias_back", "probe", "relearnt_1", "relearnt_5", "relearnt_20", "membership", "trigger", "disturbed"]
    lines = []
    for (problem, method), rows in groups(load("what-remains"), "problem", "method").items():
        lines.append((problem, method, *[f"{mean(row[key] for row in rows):.2f}" for key in shown]))
    first = ["original", "retrain", "output bias alone", "natural", "natural, deeper"]
    lines.sort(key=lambda line: (ORDER.index(line[0]), first.index(line[1]) if line[1] in first else 9))
    return markdown(("problem", "method", *[f"`{key}`" for key in shown]), lines)


def calibration() -> str:
    rows = load("calibration")
    bins = [(0.0, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 8.0), (8.0, 100.0)]
    lines = []
    for (problem,), chosen in groups(rows, "problem").items():
        for low, high in bins:
            inside = [row for row in chosen if low <= max(row["lost"], 0) < high]
            if inside:
                title = f"{low:g} to {high:g}" if high < 100 else f"{low:g} and more"
                lines.append((problem, title, len(inside), damage(inside)))
    return markdown(("problem", "`remain_log_odds_lost`, nats", "edits", "change of the rest: mean, worst"), lines)


def draw(rows: Sequence[Row]) -> None:
    """Plot the damage that receipts predict against the damage to test images."""
    if not rows:
        return
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for (problem,), chosen in groups(rows, "problem").items():
        axis.scatter([row["lost"] for row in chosen], [row["change"] for row in chosen], s=10, alpha=0.6, label=problem)
    axis.axvline(2, color="0.6", linewidth=1)
    axis.set_xscale("symlog", linthresh=1)
    axis.set_yscale("symlog", linthresh=1)
    axis.set_xlabel("most log-odds lost by a remaining code, nats")
    axis.set_ylabel("change of test accuracy\non the rest, points")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(DOCS / "results" / "one-shot-calibration.svg", metadata={"Date": None})
    plt.close(figure)


def shifts() -> str:
    lines = []
    for (problem, seed), rows in groups(load("shifts"), "problem", "seed").items():
        of_codes, of_images = ([value for row in rows for value in row[key]] for key in ("codes", "images"))
        apart = mean((a - b) ** 2 for a, b in zip(of_codes, of_images, strict=True)) ** 0.5
        lines.append(
            (
                f"{problem}, seed {seed}",
                f"{correlation(of_codes, of_images):.2f}",
                f"{mean(value**2 for value in of_images) ** 0.5:.2f}",
                f"{apart:.2f}",
                damage(rows),
                signed(*(choose(row["change_made_up"] for row in rows) for choose in (mean, min))),
            )
        )
    header = ("problem", "correlation", "shift of images, nats", "difference to codes, nats", "change: mean, worst")
    return markdown((*header, "with the shifts taken back"), lines)


def serving_load() -> str:
    lines = []
    for row in load("serving-load"):
        slower = row["p99_during_edits_ms"] / row["p99_ms"]
        size, times = f"{row['parameters'] / 1e6:.1f} M", (row["p50_ms"], row["p99_ms"], f"{slower:.2f}")
        lines.append((row["name"], size, row["predictions"], row["edits"], row["torn"], *times, row["held_ms"]))
    header = ("service", "parameters", "predictions", "edits meanwhile", "torn", "p50, ms", "p99 without edits, ms")
    return markdown((*header, "p99 during edits, times that", "held, ms"), lines)


TABLES = {
    "summary": summary,
    "one-class": one_class,
    "worst-classes": worst_classes,
    "settings": settings,
    "several": several,
    "in-sequence": in_sequence,
    "without-codes": without_codes,
    "code-kinds": code_kinds,
    "many-classes": many_classes,
    "calibration": calibration,
    "what-remains": what_remains,
    "audit-verdicts": audit_tables.verdicts,
    "audit-figures": audit_tables.figures,
    "novel-classes": audit_tables.novel_classes,
    "shifts": shifts,
    "serving-load": serving_load,
    **inside_tables.TABLES,
    **study_tables.TABLES,
}


def render(text: str) -> str:
    """Return the text of a page with its tables written anew from the rows."""
    for name, table in TABLES.items():
        block = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        content = table()
        text = block.sub(lambda match, content=content: f"{match[1]}\n{content}\n\n{match[2]}", text)
    return text


def main() -> None:
    for page in PAGES:
        page.write_text(render(page.read_text()))
    mpl.rcParams["svg.hashsalt"] = "fastforget"  # makes the same picture from the same rows
    draw(load("calibration"))
    study_tables.draw(DOCS / "results" / "comparison.svg")


if __name__ == "__main__":
    main()
