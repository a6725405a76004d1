"""How well classes that a network never saw stand in for a network trained again, in an audit.

The network of a row was trained without one class, the novel one. Another class is forgotten, and the audit gets no
retrained network, but all samples of the novel class. A row is one (problem, seed, novel, cls, kind), with the kinds of
`audit_verdicts.py` that can be made so. Figures are percent of the test samples of the forgotten class, beside those of
the novel class (`..., novel`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from audit_verdicts import batches, lowered
from common import Row, parser, save_rows
from inside import SEEN, training_images
from problems import PROBLEMS, Network, networks
from torch import nn

from fastforget import audit, one_shot

KEY = ("problem", "seed", "novel", "cls", "kind")
# What has to be found, and what may be.
EXPECTED: dict[str, tuple[set[str], set[str]]] = {
    "bias only": ({"hidden"}, {"still in the features", "easier to learn again"}),
    "one_shot": (set(), {"still in the features", "easier to learn again"}),
    "one_shot, 16 images": (set(), set()),
}
LOWER = 25.0  # nats that the output bias is lowered by


def edited(network: Network, base: nn.Module, novel: int, cls: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield a model of each kind."""
    yield "bias only", lowered(base, cls, LOWER)
    model = copy.deepcopy(base)
    one_shot(model, network.codes, cls, forgotten=[novel], undo=False)
    yield "one_shot", model
    model = copy.deepcopy(base)
    others = [other for other in range(len(network.codes)) if other != novel]
    samples = training_images(network, SEEN, others)
    one_shot(model, network.codes, cls, forgotten=[novel], samples=samples, undo=False)
    yield "one_shot, 16 images", model


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=["digits/cnn"])
    arguments.add_argument("--novel", type=int, nargs="+", help="classes that networks are trained without")
    arguments.add_argument("--apart", type=int, nargs="+", default=[1, 4, 7], help="from the novel class to forget")
    given = arguments.parse_args()
    for network in networks(given):
        data, total = network.data, len(network.codes)
        for novel in given.novel or range(total):
            base = network.retrained(novel)
            known, seen = data.y_train != novel, data.y_test != novel
            test = batches(data.x_test[seen], data.y_test[seen])
            strangers = torch.cat([data.x_train[~known], data.x_test[~seen]])
            for cls in [(novel + apart) % total for apart in given.apart]:
                own = data.y_train == cls
                forget, remain = (
                    batches(data.x_train[rows], data.y_train[rows]) for rows in (own & known, known & ~own)
                )
                for kind, model in edited(network, base, novel, cls):
                    labels = torch.zeros(len(strangers), dtype=torch.int64)
                    report = audit(model, forget, remain, test, original=base, novel=(strangers, labels))
                    found = {finding.kind for finding in report.findings}
                    needed, allowed = EXPECTED[kind]
                    row: Row = {**network.facts, "novel": novel, "cls": cls, "kind": kind, "found": sorted(found)}
                    row |= {"wrong": sorted(found - needed - allowed), "missed": sorted(needed - found)}
                    for name, metric in report.metrics.items():
                        if metric.value is not None and metric.of_novel is not None:
                            value, novel_value = metric.value, metric.of_novel
                            row |= {name: round(100 * value, 2), f"{name}, novel": round(100 * novel_value, 2)}
                    save_rows("novel-classes", [row], given.output, KEY)
                    print(network, novel, cls, kind, row["wrong"], row["missed"], flush=True)


if __name__ == "__main__":
    main()
