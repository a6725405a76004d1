"""Table 9: a step shifts the logits of images as it shifts the logits of codes.

A row is one (problem, seed, forgotten class). It holds the mean shift of the logit of each remaining class, over the
remaining codes and over the remaining test images. Shifts are relative to the mean shift of these logits, in nats.
The row also holds the change of the accuracy on the rest, in points: with the output biases of the original, and after
the shifts of the codes are subtracted.
"""

from __future__ import annotations

import math

import torch
from common import Row, accuracies, logits, parser, save_rows
from problems import PROBLEMS, networks
from torch import Tensor

import fastforget

KEY = ("problem", "seed", "cls")


def shifts(before: Tensor, after: Tensor, labels: Tensor, rest: list[int]) -> Tensor:
    """Return the mean shift of the logit of each remaining class, over the samples of remaining classes."""
    moved = (after - before)[torch.isin(labels, torch.tensor(rest))][:, rest].mean(0)
    return moved - moved.mean()


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=["digits/cnn", "fashion/resnet"])
    arguments.add_argument("--samples", type=int, default=2000, help="test images")
    given = arguments.parse_args()
    for network in networks(given):
        model, codes = network.model, network.codes
        (x, y), rows = network.images(given.samples, seed=1), list[Row]()
        base, known = logits(model, x), logits(model, codes.inputs)
        for cls in range(len(codes)):
            rest = [other for other in range(len(codes)) if other != cls]
            *_, bias = model.parameters()
            original = bias.detach().clone()
            receipt = fastforget.one_shot(model, codes, cls)
            moved = bias.detach().clone()
            bias.data.copy_(original)
            found, changed = logits(model, x), logits(model, codes.inputs)
            bias.data.copy_(moved)
            receipt.revert(model)
            of_codes, of_images = (
                shifts(before, after, labels, rest)
                for before, after, labels in ((known, changed, codes.labels), (base, found, y))
            )
            before = accuracies(base, y, [cls])[1]
            found[:, cls] = -math.inf
            plain = accuracies(found, y, [cls])[1] - before
            found[:, rest] -= of_codes
            facts = {**network.facts, "cls": cls}
            figures = {"change": plain, "change_made_up": accuracies(found, y, [cls])[1] - before}
            lists = {"codes": of_codes.tolist(), "images": of_images.tolist()}
            rows.append(
                facts
                | {key: round(value, 3) for key, value in figures.items()}
                | {key: [round(v, 3) for v in values] for key, values in lists.items()}
            )
        save_rows("shifts", rows, given.output, KEY)
        print(network, [row["change_made_up"] for row in rows], flush=True)


if __name__ == "__main__":
    main()
