"""Table 3: request after request, ten of twenty classes.

A row is one (seed, mode, place): after that many requests, test accuracy on all the forgotten classes, and on the
remaining ones minus that of the original on the same images, in points; and the former with the output bias put back
where the steps alone had left it. Modes: the Fisher of all codes computed for each request; kept and updated.
"""

from __future__ import annotations

import copy
import random
import time

import torch
from common import Row, keep, logits, parser, rates
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
            model, rows, lowered = copy.deepcopy(original), list[Row](), torch.zeros(len(data.class_names))
            kept = fastforget.fisher_diagonal(model, codes.inputs, codes.labels, reduction="sum")
            for place, cls in enumerate(order):
                start = time.process_time()
                known = {"fisher": kept, "update": True} if mode == "kept" else {}
                receipt = fastforget.one_shot(model, codes, cls, forgotten=order[:place], **known)
                seconds = time.process_time() - start
                gone, found = order[: place + 1], logits(model, data.x_test)
                lowered[cls] = receipt.evidence["silenced_by"]
                forget, remain = rates(found, data.y_test, gone)
                rows.append(
                    {
                        "problem": given.problem,
                        "seed": seed,
                        "mode": mode,
                        "place": place,
                        "cls": cls,
                        "forget": round(forget, 3),
                        "forget_step_alone": round(rates(found + lowered, data.y_test, gone)[0], 3),
                        "change": round(remain - rates(base, data.y_test, gone)[1], 3),
                        "lost": round(receipt.evidence["remain_log_odds_lost"], 3),
                        "seconds": round(seconds, 3),
                    }
                )
            keep("in-sequence", rows, given.output, KEY)
            worst = max(row["forget"] for row in rows), min(row["change"] for row in rows)
            print(f"seed {seed} {mode}: worst {worst[0]:.2f}, {worst[1]:+.2f}; last {rows[-1]}", flush=True)


if __name__ == "__main__":
    main()
