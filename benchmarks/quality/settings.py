"""Table 8: the effect of each setting of the natural rule, changed one at a time.

A row is one (problem, seed, settings, class). It holds the accuracy on test images of the forgotten class after the
step alone, and the change of the accuracy on the others, in points. The step moves the default parameters, or all
parameters including tables of embeddings.
"""

from __future__ import annotations

from common import Row, accuracies, logits, logits_by_step_alone, parser, save_rows
from problems import PROBLEMS, networks

import fastforget

KEY = ("problem", "seed", "moving", "rho", "widen", "depth", "spill", "reach", "cls")
DEFAULT = {"moving": "default", "rho": 0.003, "widen": 3.0, "depth": 6.0, "spill": 2.0, "reach": 16.0}
VALUES = {
    "moving": ["all"],
    "rho": [0.001, 0.01, 0.03],
    "widen": [1.0, 9.0],
    "depth": [3.0, 4.5, 10.0],
    "spill": [0.5, 1.0, 4.0],
    "reach": [4.0, 64.0],
}
CHANGES = [{}, *({name: value} for name, values in VALUES.items() for value in values)]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=["digits/cnn", "fashion/resnet"])
    arguments.add_argument("--settings", nargs="+", choices=list(DEFAULT), default=list(DEFAULT))
    arguments.add_argument("--samples", type=int, default=1000, help="test images")
    given = arguments.parse_args()
    for network in networks(given):
        model, codes = network.model, network.codes
        x, y = network.images(given.samples, seed=1)
        base = logits(model, x)
        for change in [change for change in CHANGES if set(change) <= set(given.settings)]:
            settings, rows = DEFAULT | change, list[Row]()
            for cls in range(len(codes)):
                given_settings = {key: value for key, value in settings.items() if key != "moving"}
                names = None if settings["moving"] == "default" else dict(model.named_parameters())
                receipt = fastforget.one_shot(model, codes, cls, parameters=names, **given_settings)
                found = logits(model, x)
                receipt.revert(model)
                lost = accuracies(found, y, [cls])[1] - accuracies(base, y, [cls])[1]
                found = logits_by_step_alone(model, codes, cls, x, parameters=names, **given_settings)
                figures = {"forget_step_alone": accuracies(found, y, [cls])[0], "change": lost}
                facts = {**network.facts, **settings, "cls": cls}
                rows.append(facts | {key: round(value, 3) for key, value in figures.items()})
            save_rows("settings", rows, given.output, KEY)
            print(network, settings, min(row["change"] for row in rows), flush=True)


if __name__ == "__main__":
    main()
