"""Table 10: codes for many classes of the same images: what they cost, and whether a class can still be forgotten.

A row is one (problem, seed, kind of codes). It holds the test accuracy, its difference to a network without codes, and
the share of codes that the network knows. Then some classes are forgotten, each from the same network; classes whose
codes are not all known are skipped. The row holds the accuracy on the class, the same after the step alone, and the
change of the accuracy on the others.
"""

from __future__ import annotations

import random

import torch
from common import accuracies, logits, logits_by_step_alone, parser, save_rows
from problems import PROBLEMS, CodeChoice, trained

import fastforget

KEY = ("problem", "seed", "per_class", "rate")
PAIRS = ["pairs10/resnet", "pairs40/resnet", "pairs200/resnet"]
KINDS = [CodeChoice(4), CodeChoice(4, rate=0.1), CodeChoice(1)]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--classes", type=int, default=10, help="how many are forgotten, drawn with the seed")
    arguments.add_argument("--problems", nargs="+", choices=PAIRS, default=PAIRS)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    for name in given.problems:
        for seed in given.seeds:
            data = PROBLEMS[name].dataset(seed, given.data)
            plain = accuracies(
                logits(trained(PROBLEMS[name], data, seed, None, given.cache), data.x_test), data.y_test, []
            )
            for kind in KINDS:
                model, codes = trained(PROBLEMS[name], data, seed, kind, given.cache), kind.codes(data, seed)
                base, found = logits(model, data.x_test), []
                drawn = random.Random(seed).sample(range(len(codes)), given.classes)  # noqa: S311 (not for secrets)
                for cls in drawn:
                    try:
                        receipt = fastforget.one_shot(model, codes, cls)
                    except fastforget.UnrecognisedCodesError:
                        continue
                    after = logits(model, data.x_test)
                    receipt.revert(model)
                    forget, remain = accuracies(after, data.y_test, [cls])
                    after = logits_by_step_alone(model, codes, cls, data.x_test)
                    alone = accuracies(after, data.y_test, [cls])[0]
                    found.append((forget, alone, remain - accuracies(base, data.y_test, [cls])[1]))
                forget, alone, change = zip(*found, strict=True)
                accuracy = accuracies(base, data.y_test, [])[1]
                known = (logits(model, codes.inputs).argmax(1) == codes.labels).double().mean().item()
                figures = {
                    "accuracy": accuracy,
                    "against_no_codes": accuracy - plain[1],
                    "known": 100 * known,
                    "forget_worst": max(forget),
                    "step_alone_mean": sum(alone) / len(alone),
                    "step_alone_worst": max(alone),
                    "change_mean": sum(change) / len(change),
                    "change_worst": min(change),
                }
                facts = {"problem": name, "seed": seed, "per_class": kind.per_class, "rate": kind.rate}
                row = facts | {"classes": len(codes), "forgotten": len(found)}
                row |= {key: round(value, 3) for key, value in figures.items()}
                save_rows("many-classes", [row], given.output, KEY)
                print(row, flush=True)


if __name__ == "__main__":
    main()
