"""The study: each method on each network, compared with a retrained network. There is a row for each.

* ``forget``, ``remain``, ``test``: accuracy in percent, on the samples to forget, on 2,000 remaining samples, and on
  5,000 test images of the remaining classes;
* ``membership``: for each attack, the area under the curve in percent. The attack tells the samples to forget from test
  images of their classes;
* ``seconds``: CPU time of the method on one thread. For ``retrain`` it is the time of the training.

``remaining`` is the share of the remaining data that a method is given, in percent. The retrained network has all.
``--methods ablations`` makes the rows of docs/results/learn-to-unlearn.md. ``--methods rates`` tries other learning
rates of the papers' methods.
"""

from __future__ import annotations

import time

from common import Row, parser, save_rows
from study_methods import ABLATIONS, FOR_CLASSES, METHODS, RATES
from study_subjects import SCENARIOS, SIZES, Subject, subjects
from torch import nn

from fastforget.auditing import audit
from fastforget.comparison.measures import values_of

SETS = {"ablations": ABLATIONS, "rates": RATES}
KEY = ("problem", "scenario", "remaining", "method", "seed")


def figures(model: nn.Module, subject: Subject) -> Row:
    """Return the columns of a row that are measured."""
    report = audit(model, subject.forget, subject.remain.first(2000), subject.test.first(5000), relearning_steps=0)
    percent = {name: round(100 * value, 2) for name, value in values_of(report).items() if value is not None}
    return {
        **{part: percent[f"{part} accuracy"] for part in ("forget", "remain", "test")},
        "membership": {name[8:]: value for name, value in percent.items() if name.startswith("attack: ")},
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--problems", nargs="+", choices=list(SIZES), default=list(SIZES))
    arguments.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    arguments.add_argument("--remaining", type=int, nargs="+", default=[100, 10])
    arguments.add_argument("--methods", nargs="+", choices=[*METHODS, *SETS], default=list(METHODS))
    given = arguments.parse_args()
    chosen = given.methods[0] if given.methods[0] in SETS else "study"
    methods = SETS.get(chosen) or {name: METHODS[name] for name in given.methods}
    for subject in subjects(given):
        rows = [{**subject.facts, "remaining": 100, "method": "retrain", **figures(subject.retrained, subject)}]
        rows[0]["seconds"] = round(subject.seconds, 1)
        for percent in given.remaining:
            for name, method in methods.items():
                if name in FOR_CLASSES and subject.facts["scenario"] != "class":
                    continue
                model, remain = subject.network(), subject.part(percent)
                started = time.process_time()
                method(model, subject, remain)
                seconds = round(time.process_time() - started, 1)
                found = {**figures(model, subject), "seconds": seconds}
                rows.append({**subject.facts, "remaining": percent, "method": name, **found})
                print(*subject.facts.values(), percent, name, found, flush=True)
            save_rows(chosen if chosen == "study" else f"study-{chosen}", rows, given.output, KEY)


if __name__ == "__main__":
    main()
