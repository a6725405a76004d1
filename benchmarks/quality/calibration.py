"""Table 6: does the estimate of the damage in the receipt, from codes alone, say what test images lose?

A row is one (problem, seed, class, spill): the most log-odds that a remaining code lost, as the receipt has it, and the
change of the test accuracy on the remaining classes, in points. `spill` is varied far beyond its default, so that there
is damage to estimate; ρ = 3 %, which does more of it.
"""

from __future__ import annotations

from common import Row, keep, logits, parser, rates
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
                change = rates(logits(model, x), y, [cls])[1] - rates(base, y, [cls])[1]
                receipt.revert(model)
                facts = {**network.facts, "cls": cls, "spill": spill}
                lost = receipt.evidence["remain_log_odds_lost"]
                rows.append(facts | {"lost": round(lost, 3), "change": round(change, 3)})
        keep("calibration", rows, given.output, KEY)
        print(network, flush=True)


if __name__ == "__main__":
    main()
