"""Table 2: several classes in one call.

A row is one (problem, seed, classes, method), classes drawn with the seed: test accuracy on the forgotten classes, and
on the remaining ones minus that of the original on the same images, in points.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence

from common import Row, keep, logits, parser, rates
from methods import METHODS, Subject
from problems import PROBLEMS, networks
from torch import nn

import fastforget
from fastforget.forgetting.class_by_class import group_sensitivity
from fastforget.forgetting.code_batch import examine, prepare
from fastforget.forgetting.rules import natural
from fastforget.model import outside_tables, watched_parameters
from fastforget.receipt import write

KEY = ("problem", "seed", "method", "classes")


def one_direction(subject: Subject, classes: Sequence[int]) -> nn.Module:
    """One natural step for all classes together, as deep as for one class, whatever the others lose."""
    model = copy.deepcopy(subject.model)
    parameters = watched_parameters(model, None)
    live, chosen = prepare(model, subject.codes, classes, (), next(iter(parameters.values())))
    known = examine(model, live, chosen)
    moving, few = outside_tables(model, parameters), known.to_forget()
    found = group_sensitivity(model, moving, known)
    try:
        settings = {"rho": 0.003, "widen": 1.0, "depth": 6.0, "spill": math.inf, "reach": 16.0}
        step = natural(model, parameters, found, few, moving=moving, **settings)
    except fastforget.ForgettingError:
        return model  # no step forgets all of them
    write(model, step.stage.edits(), old=False)
    return model


CHOICES = {
    name: METHODS[name] for name in ("natural", "natural, its step alone", "output bias alone", "paper, λ by codes")
} | {"one direction": one_direction}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=["digits/cnn", "fashion/resnet"])
    arguments.add_argument("--counts", type=int, nargs="+", default=[2, 3, 5], help="how many classes")
    arguments.add_argument("--draws", type=int, default=5, help="sets of classes of each size")
    arguments.add_argument("--methods", nargs="+", choices=list(CHOICES), default=list(CHOICES))
    given = arguments.parse_args()
    for network in networks(given):
        data = network.data
        subject, original = Subject(network.model, network.codes, data), logits(network.model, data.x_test)
        draw, total = random.Random(network.seed), len(network.codes)  # noqa: S311 (not for secrets)
        for count in given.counts:
            sets = [sorted(draw.sample(range(total), count)) for _ in range(given.draws)]
            for method in given.methods:
                rows: list[Row] = []
                for classes in sets:
                    found = logits(CHOICES[method](subject, classes), data.x_test)
                    forget, remain = rates(found, data.y_test, classes)
                    change = remain - rates(original, data.y_test, classes)[1]
                    facts = {**network.facts, "method": method, "classes": classes}
                    rows.append({**facts, "forget": round(forget, 3), "change": round(change, 3)})
                keep("several", rows, given.output, KEY)
                worst = max(row["forget"] for row in rows), min(row["change"] for row in rows)
                print(f"{network} {count} {method}: worst {worst[0]:.2f}, {worst[1]:+.2f}", flush=True)


if __name__ == "__main__":
    main()
