"""What the audit says of models that are known to be right or wrong in one way.

A row is one (problem, seed, class, kind) with the kinds of the audit's findings. The kinds of models:

* `retrained`: trained without the class, with another seed than the retrained model that it is compared with, on the
  same data: nothing is wrong with it;
* `bias only`: the original, with the output bias of the class lowered until its log-odds are those of the retrained
  model on average: the class is *hidden*, and nothing else was done;
* `one_shot`: the default edit, from codes;
* `one_shot, 16 images`: the same with 16 training images of each class;
* `over-forgotten`: the same as `retrained`, with the output bias of the class lowered by 40 nats;
* `untouched`: the original. It *remembers*.

`wrong` names findings that are not true of that kind of model, `missed` the one that had to be there.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator

import torch
from common import Row, parser, save_rows
from inside import SEEN, training_images
from problems import PROBLEMS, Network, networks, trained
from torch import Tensor, nn

from fastforget import audit, one_shot
from fastforget.classifier.predictions import collect_predictions

KEY = ("problem", "seed", "cls", "kind")
INSIDE = {"still in the features", "easier to learn again"}
EXPECTED: dict[str, tuple[set[str], set[str]]] = {  # what has to be found, and what may be
    "retrained": (set(), set()),
    "bias only": ({"hidden"}, INSIDE),
    "one_shot": (set(), INSIDE),  # codes do not carry features, and what is still there is learnt again sooner
    "one_shot, 16 images": (set(), set()),
    "over-forgotten": ({"over-forgotten"}, set()),
    "untouched": ({"remembers"}, INSIDE),
}
OTHER_SEED, DEEPER = 10, 40.0

Batches = list[tuple[Tensor, Tensor]]


def batches(x: Tensor, y: Tensor) -> Batches:
    return list(zip(x.split(250), y.split(250), strict=True))


def lowered(model: nn.Module, cls: int, nats: float) -> nn.Module:
    """Return a copy with a lower output bias of a class."""
    lower = copy.deepcopy(model)
    *_, bias = lower.parameters()
    with torch.no_grad():
        bias[cls] -= nats
    return lower


def audited(network: Network, cls: int, retrained: nn.Module, forget: Batches) -> Iterator[tuple[str, nn.Module]]:
    """Yield a model of each kind."""
    model, folder = network.model, network.cache / f"split-{network.seed}"
    other = trained(network.problem, network.data, network.seed + OTHER_SEED, network.choice, folder, exclude=(cls,))
    yield "retrained", other
    odds = [float(collect_predictions(m, forget, "forget").odds.mean()) for m in (model, retrained)]
    yield "bias only", lowered(model, cls, odds[0] - odds[1])
    edited = copy.deepcopy(model)
    one_shot(edited, network.codes, cls, undo=False)
    yield "one_shot", edited
    edited = copy.deepcopy(model)
    one_shot(edited, network.codes, cls, samples=training_images(network, SEEN), undo=False)
    yield "one_shot, 16 images", edited
    yield "over-forgotten", lowered(other, cls, DEEPER)
    yield "untouched", model


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=["digits/cnn"])
    arguments.add_argument("--classes", type=int, nargs="+")
    arguments.add_argument("--kinds", nargs="+", choices=list(EXPECTED), default=list(EXPECTED))
    given = arguments.parse_args()
    for network in networks(given):
        data = network.data
        test = batches(data.x_test, data.y_test)
        for cls in given.classes or range(len(network.codes)):
            own = data.y_train == cls
            forget, remain = (batches(data.x_train[rows], data.y_train[rows]) for rows in (own, ~own))
            retrained = network.retrained(cls)
            for kind, model in audited(network, cls, retrained, forget):
                if kind not in given.kinds:
                    continue
                started = time.perf_counter()
                report = audit(model, forget, remain, test, original=network.model, retrained=retrained)
                seconds = time.perf_counter() - started
                alone = audit(model, forget, remain, test, relearning_steps=0)
                found = {finding.kind for finding in report.findings}
                needed, allowed = EXPECTED[kind]
                figures = {
                    name: round(100 * metric.value, 2)
                    for name, metric in report.metrics.items()
                    if name.startswith(("with ", "linear", "nearest", "again")) and metric.value is not None
                }
                row: Row = {
                    **network.facts,
                    "cls": cls,
                    "kind": kind,
                    "found": sorted(found),
                    "wrong": sorted(found - needed - allowed),
                    "missed": sorted(needed - found),
                    "found_alone": sorted({finding.kind for finding in alone.findings}),
                    **figures,
                    "seconds": round(seconds, 1),
                }
                save_rows("audit-verdicts", [row], given.output, KEY)
                texts = [f"{finding.kind}: {finding.text}" for finding in report.findings]
                print(network, cls, kind, row["wrong"], row["missed"], texts, flush=True)


if __name__ == "__main__":
    main()
