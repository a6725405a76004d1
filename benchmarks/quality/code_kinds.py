"""Table 5: which codes to train with: their distribution, their number per class, how often and how they are shown.

A row is one (problem, seed, kind). It holds the test accuracy before forgetting. Then each class is forgotten from the
same network, and the row holds the accuracy on the class after the step alone (mean, worst) and the worst change of the
accuracy on the other classes.
"""

from __future__ import annotations

import torch
from common import accuracies, logits, logits_by_step_alone, parser, save_rows
from problems import PROBLEMS, CodeChoice, trained

import fastforget

KEY = ("problem", "seed", "distribution", "per_class", "rate", "mixed")
COUNTS, RATES = (1, 2, 4, 8), (0.1, 0.5)
IMAGES = [CodeChoice(m, kind) for kind in ("normal", "uniform", "blocks") for m in COUNTS]
IMAGES += [CodeChoice(4, "normal", rate) for rate in RATES]
IMAGES += [CodeChoice(4, "class"), CodeChoice(4, "normal", mixed=True)]
TOKENS = [CodeChoice(m, "tokens") for m in COUNTS] + [CodeChoice(4, "tokens", rate) for rate in RATES]
TOKENS += [CodeChoice(4, "class")]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=["digits/cnn"])
    given = arguments.parse_args()
    torch.set_num_threads(1)
    for name in given.problems:
        for seed in given.seeds:
            data = PROBLEMS[name].dataset(seed, given.data)
            plain = logits(trained(PROBLEMS[name], data, seed, None, given.cache), data.x_test)
            for kind in TOKENS if PROBLEMS[name].codes == "tokens" else IMAGES:
                model = trained(PROBLEMS[name], data, seed, kind, given.cache)
                codes, base = kind.codes(data, seed), logits(model, data.x_test)
                left, changes, depths = [], [], []
                for cls in range(len(data.class_names)):
                    receipt = fastforget.one_shot(model, codes, cls)
                    found = logits(model, data.x_test)
                    receipt.revert(model)
                    changes.append(accuracies(found, data.y_test, [cls])[1] - accuracies(base, data.y_test, [cls])[1])
                    found = logits_by_step_alone(model, codes, cls, data.x_test)
                    left.append(accuracies(found, data.y_test, [cls])[0])
                    depths.append(-receipt.evidence["forget_log_odds_after"])
                figures = {
                    "accuracy": accuracies(base, data.y_test, [])[1],
                    "against_no_codes": accuracies(base, data.y_test, [])[1] - accuracies(plain, data.y_test, [])[1],
                    "step_alone_mean": sum(left) / len(left),
                    "step_alone_worst": max(left),
                    "change_mean": sum(changes) / len(changes),
                    "change_worst": min(changes),
                    "depth_mean": sum(depths) / len(depths),
                }
                facts = {
                    "problem": name,
                    "seed": seed,
                    "distribution": kind.distribution,
                    "per_class": kind.per_class,
                    "rate": kind.rate,
                    "mixed": kind.mixed,
                }
                row = facts | {key: round(value, 3) for key, value in figures.items()}
                save_rows("code-kinds", [row], given.output, KEY)
                print(row, flush=True)


if __name__ == "__main__":
    main()
