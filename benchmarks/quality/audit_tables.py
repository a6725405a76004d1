"""Tables of the audit: what it says of models that are known to be right or wrong in one way."""

from __future__ import annotations

from statistics import mean

from tables import groups, load, markdown

MODELS = ["retrained", "bias only", "one_shot", "one_shot, 16 images", "over-forgotten", "untouched"]


def verdicts() -> str:
    """Return how many models of each kind have each finding, and how many verdicts are wrong."""
    kinds = ["remembers", "over-forgotten", "damaged", "hidden", "still in the features", "easier to learn again"]
    lines = []
    for (problem, kind), rows in groups(load("audit-verdicts"), "problem", "kind").items():
        counts = [sum(name in row["found"] for row in rows) or "" for name in kinds]
        wrong, missed = (sum(bool(row[key]) for row in rows) for key in ("wrong", "missed"))
        lines.append((problem, kind, len(rows), *counts, wrong, missed))
    lines.sort(key=lambda line: (line[0], MODELS.index(line[1])))
    return markdown(("problem", "model", "models", *[f"*{kind}*" for kind in kinds], "wrong", "missed"), lines)


def figures() -> str:
    """Return the means and ranges of the measures of classes that are gone."""
    shown = ["with the best bias", "with a usual bias", "with the old bias", "linear probe", "nearest class mean"]
    shown += [f"again {step}" for step in (1, 5, 20, 50)] + ["again 5 with a usual bias"]
    lines = []
    for (problem, kind), rows in groups(load("audit-verdicts"), "problem", "kind").items():
        values = [[row[name] for row in rows] for name in shown]
        lines.append(
            (problem, kind, *[f"{mean(found):.0f} ({min(found):.0f} to {max(found):.0f})" for found in values])
        )
    lines.sort(key=lambda line: (line[0], MODELS.index(line[1])))
    return markdown(("problem", "model", *shown), lines)


def novel_classes() -> str:
    """Return what is found of forgotten classes and of classes that the network never saw."""
    shown = ["linear probe", "nearest class mean", "again 5", "again 20", "again 5 with a usual bias"]
    lines = []
    for (problem, kind), rows in groups(load("novel-classes"), "problem", "kind").items():
        values = [[mean(row[f"{name}{end}"] for row in rows) for end in ("", ", novel")] for name in shown]
        wrong, missed = (sum(bool(row[key]) for row in rows) for key in ("wrong", "missed"))
        lines.append((problem, kind, len(rows), *[f"{own:.0f}, {novel:.0f}" for own, novel in values], wrong, missed))
    lines.sort(key=lambda line: (line[0], MODELS.index(line[1])))
    return markdown(("problem", "model", "models", *shown, "wrong", "missed"), lines)
