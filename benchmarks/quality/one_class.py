"""Table 1: every class of every problem forgotten on its own, by every method.

A row is one (problem, seed, class, method): test accuracy on the forgotten class, and on the remaining classes minus
that of the original on the same images, in points.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence

import torch
from common import Row, keep, logits, parser, rates
from methods import METHODS, Subject
from problems import PROBLEMS, CodeChoice, Problem, trained

KEY = ("problem", "per_class", "seed", "method", "cls")


def measure(
    problem: Problem, seed: int, methods: Sequence[str], classes: Sequence[int] | None, arguments: Namespace
) -> Iterator[list[Row]]:
    """Yield the rows of each method."""
    choice = CodeChoice(arguments.per_class)
    data = problem.dataset(seed, arguments.data)
    model = trained(problem, data, seed, choice, arguments.cache)
    subject = Subject(model, choice.codes(data, seed), data)
    original = logits(model, data.x_test)
    facts = {"problem": problem.name, "per_class": choice.per_class, "seed": seed}
    for method in methods:
        rows = []
        for cls in range(len(data.class_names)) if classes is None else classes:
            before, base = rates(original, data.y_test, [cls])
            if method == "retrain":
                edited = trained(problem, data, seed, choice, arguments.cache, exclude=(cls,))
            else:
                edited = METHODS[method](subject, [cls])
            forget, remain = rates(logits(edited, data.x_test), data.y_test, [cls])
            found = {"before": before, "base": base, "forget": forget, "change": remain - base}
            rows.append({**facts, "method": method, "cls": cls} | {k: round(v, 3) for k, v in found.items()})
        yield rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    arguments.add_argument("--methods", nargs="+", choices=[*METHODS, "retrain"], default=list(METHODS))
    arguments.add_argument("--classes", type=int, nargs="+")
    arguments.add_argument("--per-class", type=int, default=4, help="codes per class")
    given = arguments.parse_args()
    torch.set_num_threads(1)  # training on more threads gives other bits, and so another network
    for name in given.problems:
        for seed in given.seeds:
            for rows in measure(PROBLEMS[name], seed, given.methods, given.classes, given):
                keep("one-class", rows, given.output, lambda row: tuple(row[k] for k in KEY))
                worst = max(row["forget"] for row in rows), min(row["change"] for row in rows)
                title = f"{name} seed {seed} {rows[0]['method']}"
                print(f"{title}: worst forget {worst[0]:.2f}, change {worst[1]:+.2f}", flush=True)


if __name__ == "__main__":
    main()
