"""What can be known of a network that never saw some samples, from the network that did; a row for each network.

* ``original``: rank correlation of the log-odds of the own class, of the samples to forget, before and after training
  again without them; ``within``: the same within classes, the mean of these;
* ``twins``: the same of the log-odds that their unseen twins have now;
* ``apart_original``, ``apart_twins``: root mean square distance from the log-odds after training again, nats;
* ``second``: of the samples that the network trained again gets wrong, the share that it takes for the second choice of
  the one that knew them.
"""

from __future__ import annotations

from statistics import mean

import torch
from common import Row, keep, parser
from scipy.stats import spearmanr
from study_methods import unseen
from study_subjects import SIZES, Subject, subjects
from torch import Tensor

from fastforget.losses import log_odds
from fastforget.observation import observe
from fastforget.unlearning.counterfactual import twins_of


def figures(subject: Subject) -> Row:
    batches = [(subject.forget.x, subject.forget.y)]
    seen, goal = (observe(model, batches, "forget") for model in (subject.original, subject.retrained))
    others = observe(subject.original, unseen(subject, subject.part(10)), "unseen")
    labels = sorted(set(seen.targets.tolist()))
    original, after, twins = (
        log_odds(logits, seen.targets) for logits in (seen.logits, goal.logits, twins_of(seen, others, labels))
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
    keep("study-ranks", rows, given.output, ("problem", "seed"))


if __name__ == "__main__":
    main()
