"""Table 1: each class of each problem forgotten alone, by each method.

A row is one (problem, seed, class, method). It holds the test accuracy on the forgotten class, and the change of the
accuracy on the remaining classes, in points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from common import Row, accuracies, logits, parser, save_rows
from methods import METHODS, Subject
from problems import PROBLEMS, Network, networks

KEY = ("problem", "per_class", "seed", "method", "cls")
DEFAULT = ["digits/cnn", "fashion/mlp", "fashion/resnet", "fashion/vit", "cifar10/resnet", "docstrings/transformer"]


def measure(network: Network, methods: Sequence[str], classes: Sequence[int] | None) -> Iterator[list[Row]]:
    """Yield the rows of each method."""
    data, subject = network.data, Subject(network.model, network.codes, network.data)
    original = logits(network.model, data.x_test)
    facts = {**network.facts, "per_class": network.choice.per_class}
    for method in methods:
        rows = []
        for cls in range(len(network.codes)) if classes is None else classes:
            before, base = accuracies(original, data.y_test, [cls])
            edited = network.retrained(cls) if method == "retrain" else METHODS[method](subject, [cls])
            forget, remain = accuracies(logits(edited, data.x_test), data.y_test, [cls])
            found = {"before": before, "base": base, "forget": forget, "change": remain - base}
            rows.append({**facts, "method": method, "cls": cls} | {k: round(v, 3) for k, v in found.items()})
        yield rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=DEFAULT)
    arguments.add_argument("--methods", nargs="+", choices=[*METHODS, "retrain"], default=list(METHODS))
    arguments.add_argument("--classes", type=int, nargs="+")
    arguments.add_argument("--per-class", type=int, default=4, help="codes per class")
    given = arguments.parse_args()
    for network in networks(given, given.per_class):
        for rows in measure(network, given.methods, given.classes):
            save_rows("one-class", rows, given.output, KEY)
            worst = max(row["forget"] for row in rows), min(row["change"] for row in rows)
            print(f"{network} {rows[0]['method']}: worst forget {worst[0]:.2f}, change {worst[1]:+.2f}", flush=True)


if __name__ == "__main__":
    main()
