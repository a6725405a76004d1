"""Table 7: what is left of a forgotten class inside the network, compared with a network retrained without it.

A row is one (problem, seed, class, method):

* `bias_back`: test accuracy on the class with the output bias of the original, percent;
* `probe`: accuracy on its test images of a linear classifier, percent. This is trained on the features before the last
  layer, of 50 training images of each class;
* `relearnt_N`: accuracy on the class after N steps of SGD on 10 images per class, percent;
* `membership`: area under the curve of an attack that tells its training images from its test images by the entropy;
* `trigger`: a code of the class is mixed half into the remaining test images; share that turns into the class, percent;
* `disturbed`: accuracy on these mixed images, minus that of the original, points.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from common import Row, accuracies, logits, parser, save_rows
from methods import METHODS, Subject
from problems import PROBLEMS, networks
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

KEY = ("problem", "seed", "method", "cls")
SHOWN = ["original", "natural", "natural, deeper", "output bias alone", "paper, λ by test images", "retrain"]
STEPS = (1, 5, 20)


def features(model: nn.Module, x: Tensor) -> Tensor:
    """Return the inputs of the last linear layer."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    logits(model, x)
    hook.remove()
    return torch.cat(seen)


def first_images(subject: Subject, count: int, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the first training images of each class."""
    y = subject.data.y_train
    rows = torch.cat([(y == cls).nonzero().squeeze(1)[:count] for cls in classes])
    return subject.data.x_train[rows], y[rows]


def probe(model: nn.Module, subject: Subject, cls: int) -> float:
    x, y = first_images(subject, 50, range(len(subject.codes)))
    classifier = LogisticRegression(max_iter=2000).fit(features(model, x).numpy(), y.numpy())
    images = subject.data.x_test[subject.data.y_test == cls]
    return 100 * float((classifier.predict(features(model, images).numpy()) == cls).mean())


def relearnt(model: nn.Module, subject: Subject, cls: int) -> dict[str, float]:
    """Train on a few images, as an attacker would to get the class back. The output bias is that of the original."""
    model, found = copy.deepcopy(model), {}
    x, y = first_images(subject, 10, range(len(subject.codes)))
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    for step in range(1, max(STEPS) + 1):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if step in STEPS:
            found[f"relearnt_{step}"] = accuracies(logits(model, subject.data.x_test), subject.data.y_test, [cls])[0]
    return found


def membership(model: nn.Module, subject: Subject, cls: int) -> float:
    """Return the area under the curve of the attack, in its better direction: 0.5 is chance."""
    data = subject.data
    test = data.x_test[data.y_test == cls]
    train = data.x_train[data.y_train == cls][: len(test)]
    found = torch.cat([logits(model, train), logits(model, test)]).double().log_softmax(1)
    entropy = -(found.exp() * found.clamp(min=-100)).sum(1)
    area = float(roc_auc_score([1] * len(train) + [0] * len(test), -entropy.numpy()))
    return max(area, 1 - area)


def trigger(model: nn.Module, subject: Subject, cls: int) -> tuple[float, float]:
    data, code = subject.data, subject.codes.tensor[cls, 0]
    rest = data.y_test != cls
    x, y = data.x_test[rest][:1000], data.y_test[rest][:1000]
    found, plain = (logits(m, 0.5 * x + 0.5 * code).argmax(1) for m in (model, subject.model))
    disturbed = (found == y).double().mean() - (plain == y).double().mean()
    return 100 * (found == cls).double().mean().item(), 100 * disturbed.item()


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=["digits/cnn", "fashion/mlp"])
    arguments.add_argument("--classes", type=int, nargs="+")
    arguments.add_argument("--methods", nargs="+", choices=[*METHODS, "original", "retrain"], default=SHOWN)
    given = arguments.parse_args()
    for network in networks(given):
        model, data = network.model, network.data
        subject = Subject(model, network.codes, data)
        for method in given.methods:
            rows: list[Row] = []
            for cls in given.classes or range(len(network.codes)):
                if method == "retrain":
                    edited = network.retrained(cls)
                else:
                    edited = model if method == "original" else METHODS[method](subject, [cls])
                back = copy.deepcopy(edited)
                *_, bias = back.parameters()
                with torch.no_grad():
                    bias[cls] = list(model.parameters())[-1][cls]
                share, disturbed = trigger(edited, subject, cls)
                figures = {
                    "forget": accuracies(logits(edited, data.x_test), data.y_test, [cls])[0],
                    "bias_back": accuracies(logits(back, data.x_test), data.y_test, [cls])[0],
                    "probe": probe(edited, subject, cls),
                    **relearnt(back, subject, cls),
                    "membership": membership(edited, subject, cls),
                    "trigger": share,
                    "disturbed": disturbed,
                }
                facts = {**network.facts, "method": method, "cls": cls}
                rows.append(facts | {key: round(value, 3) for key, value in figures.items()})
            save_rows("what-remains", rows, given.output, KEY)
            means = {k: round(sum(row[k] for row in rows) / len(rows), 2) for k in figures}
            print(network, method, means, flush=True)


if __name__ == "__main__":
    main()
