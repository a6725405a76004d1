"""How well the original network predicts what a network retrained without some samples does with them.

A row is one network. It compares the log-odds that samples to forget have in their own class:

* ``original``: rank correlation of the log-odds before and after retraining;
* ``within``: mean of the rank correlations within each class;
* ``twins``: rank correlation of the log-odds after retraining with those of unseen twins in the original;
* ``apart_original``, ``apart_twins``: root mean square distance of the same pairs, nats;
* ``second``: among samples that the retrained network gets wrong, the share that it assigns to the second choice of the
  original.
"""

from __future__ import annotations

from statistics import mean

import torch
from common import Row, parser, save_rows
from scipy.stats import spearmanr
from study_methods import unseen
from study_subjects import SIZES, Subject, subjects
from torch import Tensor

from fastforget.classifier.losses import log_odds
from fastforget.classifier.predictions import collect_predictions
from fastforget.sample_forgetting.twins import twin_logits


def figures(subject: Subject) -> Row:
    batches = [(subject.forget.x, subject.forget.y)]
    seen, goal = (collect_predictions(model, batches, "forget") for model in (subject.original, subject.retrained))
    others = collect_predictions(subject.original, unseen(subject, subject.part(10)), "unseen")
    labels = sorted(set(seen.targets.tolist()))
    original, after, twins = (
        log_odds(logits, seen.targets) for logits in (seen.logits, goal.logits, twin_logits(seen, others, labels))
    )

    def apart(odds: Tensor) -> float:
        return float((odds - after).square().mean().sqrt())

    wrong = ~goal.correct
    second = seen.logits.scatter(1, seen.targets[:, None], -torch.inf).argmax(1)
    inside = [spearmanr(original[seen.targets == label], after[seen.targets == label])[0] for label in labels]
    return {
        "original": float(spearmanr(original, after)[0]),
        "within": mean(map(float, inside)),
        "twins": float(spearmanr(twins, after)[0]),
        "apart_original": apart(original),
        "apart_twins": apart(twins),
        "second": float((goal.logits.argmax(1) == second)[wrong].double().mean()),
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--problems", nargs="+", choices=list(SIZES), default=list(SIZES))
    given = arguments.parse_args()
    given.scenarios = ["random"]
    rows = []
    for subject in subjects(given):
        torch.manual_seed(0)
        rows.append(subject.facts | {name: round(value, 3) for name, value in figures(subject).items()})
        print(rows[-1], flush=True)
    save_rows("study-ranks", rows, given.output, ("problem", "seed"))


if __name__ == "__main__":
    main()
