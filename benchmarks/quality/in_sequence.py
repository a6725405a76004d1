"""Table 3: ten of twenty classes forgotten, one request after the other.

A row is one (seed, mode, place), after the request at that place. It holds the test accuracy on all forgotten classes.
It also holds this accuracy with the output layer left as it is: the effect of the steps alone. The change is that of
the accuracy on the remaining classes since before the first request, in points. In one mode the Fisher of all codes is
computed for each request; in the other it is kept and updated.
"""

from __future__ import annotations

import copy
import random
import time

import torch
from common import Row, accuracies, forget_by_step_alone, logits, parser, save_rows
from problems import PROBLEMS, CodeChoice, trained

import fastforget

KEY = ("problem", "seed", "mode", "place")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--problem", choices=list(PROBLEMS), default="fashion+digits/resnet")
    arguments.add_argument("--requests", type=int, default=10)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    for seed in given.seeds:
        data, choice = PROBLEMS[given.problem].dataset(seed, given.data), CodeChoice()
        original, codes = trained(PROBLEMS[given.problem], data, seed, choice, given.cache), choice.codes(data, seed)
        base = logits(original, data.x_test)
        order = random.Random(seed).sample(range(len(data.class_names)), given.requests)  # noqa: S311 (not for secrets)
        for mode in ("computed", "kept"):
            model, by_steps, rows = copy.deepcopy(original), copy.deepcopy(original), list[Row]()
            kept, kept_by_steps = (
                fastforget.fisher_diagonal(original, codes.inputs, codes.labels, reduction="sum") for _ in range(2)
            )
            for place, cls in enumerate(order):
                start = time.process_time()
                known, known_by_steps = (
                    {"forgotten": order[:place]} | ({"fisher": total, "update": True} if mode == "kept" else {})
                    for total in (kept, kept_by_steps)
                )
                receipt = fastforget.one_shot(model, codes, cls, **known)
                seconds = time.process_time() - start
                gone, found = order[: place + 1], logits(model, data.x_test)
                forget_by_step_alone(by_steps, codes, cls, **known_by_steps)
                alone = accuracies(logits(by_steps, data.x_test), data.y_test, gone)[0]
                forget, remain = accuracies(found, data.y_test, gone)
                rows.append(
                    {
                        "problem": given.problem,
                        "seed": seed,
                        "mode": mode,
                        "place": place,
                        "cls": cls,
                        "forget": round(forget, 3),
                        "forget_step_alone": round(alone, 3),
                        "change": round(remain - accuracies(base, data.y_test, gone)[1], 3),
                        "lost": round(receipt.evidence["remain_log_odds_lost"], 3),
                        "seconds": round(seconds, 3),
                    }
                )
            save_rows("in-sequence", rows, given.output, KEY)
            worst = max(row["forget"] for row in rows), min(row["change"] for row in rows)
            print(f"seed {seed} {mode}: worst {worst[0]:.2f}, {worst[1]:+.2f}; last {rows[-1]}", flush=True)


if __name__ == "__main__":
    main()
