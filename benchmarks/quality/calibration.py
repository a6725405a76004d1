"""Table 6: does a receipt, which knows only the codes, predict how much accuracy test images lose?

A row is one (problem, seed, class, spill). It holds the most log-odds that a remaining code lost, from the receipt, and
the change of the test accuracy on the remaining classes, in points. `spill` goes far beyond its default, and ρ is 3 %,
so that there is damage to predict.
"""

from __future__ import annotations

from common import Row, accuracies, logits, parser, save_rows
from problems import PROBLEMS, networks

import fastforget

KEY = ("problem", "seed", "cls", "spill")
SPILLS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=["digits/cnn", "fashion/resnet"])
    arguments.add_argument("--samples", type=int, default=2000, help="test images")
    given = arguments.parse_args()
    for network in networks(given):
        model, codes = network.model, network.codes
        x, y = network.images(given.samples, seed=0)
        base, rows = logits(model, x), list[Row]()
        for cls in range(len(codes)):
            for spill in SPILLS:
                receipt = fastforget.one_shot(model, codes, cls, rho=0.03, widen=1.0, depth=20.0, spill=spill)
                change = accuracies(logits(model, x), y, [cls])[1] - accuracies(base, y, [cls])[1]
                receipt.revert(model)
                facts = {**network.facts, "cls": cls, "spill": spill}
                lost = receipt.evidence["remain_log_odds_lost"]
                rows.append(facts | {"lost": round(lost, 3), "change": round(change, 3)})
        save_rows("calibration", rows, given.output, KEY)
        print(network, flush=True)


if __name__ == "__main__":
    main()
