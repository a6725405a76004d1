"""Table 2: several classes forgotten in one call.

A row is one (problem, seed, classes, method); the classes are drawn with the seed. It holds the test accuracy on the
forgotten classes, and the change of the accuracy on the remaining ones, in points.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence

from common import Row, accuracies, logits, parser, save_rows
from methods import METHODS, Subject
from problems import PROBLEMS, networks
from torch import nn

import fastforget
from fastforget.class_forgetting.live_codes import prepare_codes
from fastforget.class_forgetting.natural_rule import take_natural_step
from fastforget.class_forgetting.recognition import examine_codes
from fastforget.class_forgetting.sensitivity import measure_sensitivity
from fastforget.class_forgetting.settings import NaturalSettings
from fastforget.classifier.parameters import chosen_parameters, without_embedding_tables
from fastforget.edits.edit import write_edits

KEY = ("problem", "seed", "method", "classes")


def one_direction(subject: Subject, classes: Sequence[int]) -> nn.Module:
    """Take one natural step for all classes together, as deep as for one class, however much the others lose."""
    model = copy.deepcopy(subject.model)
    parameters = chosen_parameters(model, None)
    live, chosen = prepare_codes(model, subject.codes, classes, (), next(iter(parameters.values())))
    codes = examine_codes(model, live, chosen)
    moving = without_embedding_tables(model, parameters)
    ratios = measure_sensitivity(model, moving, codes).into_ratios()
    # no remaining codes are given, so that `spill` bounds nothing
    settings = NaturalSettings(rho=0.003, widen=1.0, depth=6.0, spill=2.0, reach=16.0)
    try:
        step = take_natural_step(model, parameters, ratios, codes.to_forget, settings, moving=moving)
    except fastforget.ForgettingError:
        return model  # no step forgets all of them
    write_edits(model, step.stage.edits(), old=False)
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
                    forget, remain = accuracies(found, data.y_test, classes)
                    change = remain - accuracies(original, data.y_test, classes)[1]
                    facts = {**network.facts, "method": method, "classes": classes}
                    rows.append({**facts, "forget": round(forget, 3), "change": round(change, 3)})
                save_rows("several", rows, given.output, KEY)
                worst = max(row["forget"] for row in rows), min(row["change"] for row in rows)
                print(f"{network} {count} {method}: worst {worst[0]:.2f}, {worst[1]:+.2f}", flush=True)


if __name__ == "__main__":
    main()
