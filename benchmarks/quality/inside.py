"""Table 8: what is left of a forgotten class inside the network, beside a network trained again without it.

A row is one (problem, codes, seed, method, classes). All figures but `odds` are percent, and of the class's test images
unless said otherwise. No image that an edit saw is used to measure.

* `forget`, `rest`, `worst`: accuracy on the class; on the others; the change of the accuracy of the class that lost
  most, points;
* `base`: accuracy of the original network on the others;
* `odds`: mean log-odds of the class, nats;
* `stand_in`: the same of the images of other classes, with the class of their largest other logit left out: as of
  images of a class never seen;
* `usual_bias`: accuracy with the output bias by which the class is as far below the others, on ten images of each of
  them, as those are on average; with a single other class there is none, and the bias stays;
* `old_bias`: accuracy with the output bias of the original put back;
* `old_row`: with the output row of the original put back as well: 0 shows that the body no longer answers it;
* `best_bias`: with the output bias that classifies ten images of each class best;
* `probe`: by a linear classifier on the features before the output layer, of 50 training images of each class;
* `nearest_mean`: by the nearest class mean of the features of ten images of each class;
* `again_N`: after N steps of SGD (0.01, momentum 0.9) on ten images of each class;
* `seconds`: CPU time of the edit.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from common import Row, accuracies, logits, parser, save_rows
from problems import PROBLEMS, CodeChoice, Network, trained
from sklearn.linear_model import LogisticRegression
from study_subjects import Samples
from torch import Tensor, nn

import fastforget
from fastforget import MnemonicCodes
from fastforget.auditing.best_bias import usual_offsets
from fastforget.classifier.losses import log_odds
from fastforget.classifier.output_layer import OutputLayer, find_output_layer
from fastforget.classifier.predictions import Predictions

KEY = ("problem", "codes", "seed", "method", "classes")
STEPS = (1, 5, 20, 50)
# Which training images of each class serve what: the edit sees the first alone.
SEEN, AGAIN, PROBED = (0, 16), (60, 10), (100, 50)

Edit = Callable[[nn.Module, Network, Sequence[int]], object]


def training_images(network: Network, which: tuple[int, int], classes: Sequence[int] | None = None) -> Any:
    """Return so many training images of each class after the first so many, with their labels."""
    y, (first, count) = network.data.y_train, which
    wanted = range(len(network.data.class_names)) if classes is None else classes
    rows = torch.cat([(y == cls).nonzero().squeeze(1)[first : first + count] for cls in wanted])
    return network.data.x_train[rows], y[rows]


def _with_images(count: int) -> Edit:
    def edit(model: nn.Module, network: Network, classes: Sequence[int]) -> object:
        return fastforget.one_shot(model, network.codes, classes, samples=training_images(network, (0, count)))

    return edit


def _images_as_codes(count: int) -> Edit:
    """Return the edit by images of which none was a code in training; unsorted, as they come."""

    def edit(model: nn.Module, network: Network, classes: Sequence[int]) -> object:
        x, _ = training_images(network, (0, count))
        codes = MnemonicCodes.from_tensors(x.unflatten(0, (-1, count)))
        return fastforget.one_shot(model, codes, classes)

    return edit


def _images_alone(count: int) -> Edit:
    def edit(model: nn.Module, network: Network, classes: Sequence[int]) -> object:
        return fastforget.one_shot(model, None, classes, samples=training_images(network, (0, count)))

    return edit


def _rest_alone(model: nn.Module, network: Network, classes: Sequence[int]) -> object:
    """No image and no code of the class: the output row alone, from four images of each other class."""
    others = [c for c in range(len(network.data.class_names)) if c not in classes]
    x, _ = training_images(network, (0, 4), others)
    return fastforget.one_shot(model, None, classes, samples=(x, None))


def _in_sequence(model: nn.Module, network: Network, classes: Sequence[int]) -> object:
    """One request after another."""
    for place, cls in enumerate(classes):
        fastforget.one_shot(model, network.codes, cls, forgotten=classes[:place])
    return None


def _unlearning(**settings: Any) -> Edit:
    """Return the edit by many steps, with all training images but those that the figures are measured with."""

    def edit(model: nn.Module, network: Network, classes: Sequence[int]) -> object:
        x, y = network.data.x_train, network.data.y_train
        place = F.one_hot(y).cumsum(0).gather(1, y[:, None])[:, 0] - 1  # of each image in its class
        measured = [(place >= first) & (place < first + count) for first, count in (AGAIN, PROBED)]
        free, inside = ~(measured[0] | measured[1]), torch.isin(y, torch.tensor(list(classes)))
        forget, remain = (Samples(x[free & part], y[free & part]) for part in (inside, ~inside))
        return fastforget.learn_to_unlearn(model, forget, remain, undo=False, **settings)

    return edit


def _nothing(*_: object) -> None:
    """Leave the network as it is."""


WITH_CODES: dict[str, Edit] = {
    "original": _nothing,
    "codes": lambda model, network, classes: fastforget.one_shot(model, network.codes, classes),
    "codes, output row alone": lambda model, network, classes: fastforget.one_shot(
        model, network.codes, classes, level="output"
    ),
    "codes and 16 images": _with_images(16),
}
SEQUENCE: dict[str, Edit] = {"codes, in sequence": _in_sequence}
UNLEARNING: dict[str, Edit] = {
    "learn to unlearn": _unlearning(),
    "learn to unlearn, without the row": _unlearning(output_row=False),
}
WITHOUT_CODES: dict[str, Edit] = {
    "original": _nothing,
    "4 images of the rest": _rest_alone,
    "4 images as codes": _images_as_codes(4),
    "16 images as codes": _images_as_codes(16),
    "16 images": _images_alone(16),
}


def features(model: nn.Module, layer: OutputLayer, x: Tensor) -> Tensor:
    """Return what the output layer gets, [N, D]."""
    return torch.cat([layer.features(model, part) for part in x.split(250)])


def best_bias(model: nn.Module, network: Network, classes: Sequence[int], found: Tensor) -> Tensor:
    """Return logits with the offset of the forgotten classes that is right for most of ten images of each class."""
    x, y = training_images(network, AGAIN)
    seen, chosen = logits(model, x), list(classes)
    others = seen.index_fill(1, torch.tensor(chosen), -torch.inf).max(1).values
    offsets = (others - seen[:, chosen].max(1).values).unique()
    offsets = torch.cat([offsets[:1] - 1, (offsets[1:] + offsets[:-1]) / 2, offsets[-1:] + 1])

    def right(offset: Tensor) -> float:
        moved = seen.clone()
        moved[:, chosen] += offset
        return float((moved.argmax(1) == y).double().mean())

    shares = [right(offset) for offset in offsets]
    moved = found.clone()
    moved[:, chosen] += offsets[max(range(len(shares)), key=shares.__getitem__)]
    return moved


def with_old(model: nn.Module, original: nn.Module, names: Sequence[str | None], classes: Sequence[int]) -> nn.Module:
    """Return a copy with the values that some parameters of the output layer had for the classes."""
    back = copy.deepcopy(model)
    with torch.no_grad():
        for name in names:
            if name is not None:
                back.get_parameter(name)[list(classes)] = original.get_parameter(name)[list(classes)]
    return back


def relearnt(model: nn.Module, network: Network, classes: Sequence[int], x: Tensor, y: Tensor) -> dict[str, float]:
    """Train on a few images of each class, as an attacker would to get the classes back."""
    scratch, found = copy.deepcopy(model), {}
    inputs, targets = training_images(network, AGAIN)
    optimizer = torch.optim.SGD(scratch.parameters(), 0.01, momentum=0.9)
    for step in range(1, max(STEPS) + 1):
        optimizer.zero_grad()
        F.cross_entropy(scratch(inputs), targets).backward()
        optimizer.step()
        if step in STEPS:
            found[f"again_{step}"] = accuracies(logits(scratch, x), y, classes)[0]
    return found


def measure(
    model: nn.Module, network: Network, layer: OutputLayer, classes: Sequence[int], tests: tuple[Tensor, Tensor]
) -> dict[str, float]:
    """Return the figures of one edited network."""
    x, y = tests
    inside = torch.isin(y, torch.tensor(list(classes)))
    before, found = logits(network.model, x), logits(model, x)
    forget, rest = accuracies(found, y, classes)
    changes = [
        accuracies(found, y, [cls])[0] - accuracies(before, y, [cls])[0]
        for cls in range(found.shape[1])
        if cls not in classes
    ]
    shown = features(model, layer, x[inside])
    probed, labels = training_images(network, PROBED)
    few, few_labels = training_images(network, AGAIN)
    probe = LogisticRegression(max_iter=300).fit(features(model, layer, probed).numpy(), labels.numpy())
    near = features(model, layer, few)
    means = torch.stack([near[few_labels == cls].mean(0) for cls in range(found.shape[1])])
    own_labels = y[inside]
    live = [cls for cls in range(found.shape[1]) if cls not in classes]
    strangers = found[~inside].double()
    others = strangers[:, live]
    if len(live) > 1:
        others = others.scatter(1, others.argmax(1, keepdim=True), -torch.inf)
    old_bias, old_row = (
        accuracies(logits(with_old(model, network.model, names, classes), x), y, classes)[0]
        for names in ([layer.bias], [layer.weight, layer.bias])
    )
    usual = usual_offsets(Predictions(logits(model, few), few_labels), classes)
    return {
        "forget": forget,
        "rest": rest,
        "base": accuracies(before, y, classes)[1],
        "worst": min(changes),
        "odds": float(log_odds(found[inside], own_labels).double().mean()),
        "stand_in": float((strangers[:, list(classes)].amax(1) - others.logsumexp(1)).mean()),
        "usual_bias": accuracies(found if usual is None else found + usual, y, classes)[0],
        "old_bias": old_bias,
        "old_row": old_row,
        "best_bias": accuracies(best_bias(model, network, classes, found), y, classes)[0],
        "probe": 100 * float((torch.from_numpy(probe.predict(shown.numpy())) == own_labels).double().mean()),
        "nearest_mean": 100 * float((torch.cdist(shown, means).argmin(1) == own_labels).double().mean()),
        **relearnt(model, network, classes, x, y),
    }


def subjects(given: Any) -> Any:
    """Yield the networks, trained or loaded."""
    torch.set_num_threads(1)
    for name in given.problems:
        for seed in given.seeds:
            problem = PROBLEMS[name]
            data, choice = problem.dataset(seed, given.data), CodeChoice(4, problem.codes)
            model = trained(problem, data, seed, None if given.no_codes else choice, given.cache)
            yield Network(problem, seed, model, choice.codes(data, seed), data, choice, given.cache)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=["digits/cnn", "fashion/mlp"])
    arguments.add_argument("--classes", type=int, nargs="+")
    arguments.add_argument("--at-once", type=int, default=1, help="how many classes in one request")
    arguments.add_argument("--no-codes", action="store_true", help="networks never shown any codes")
    arguments.add_argument(
        "--methods", nargs="+", choices=[*WITH_CODES, *SEQUENCE, *UNLEARNING, *WITHOUT_CODES, "retrain"]
    )
    arguments.add_argument("--tests", type=int, help="number of test images, drawn at random; all by default")
    given = arguments.parse_args()
    usual = WITHOUT_CODES if given.no_codes else WITH_CODES
    edits = {**usual, **SEQUENCE, **UNLEARNING}
    for network in subjects(given):
        total = len(network.data.class_names)
        tests = network.images(given.tests or len(network.data.y_test), seed=3)
        layer = find_output_layer(network.model, training_images(network, (0, 1))[0])
        assert layer is not None, "these networks end in a linear layer"
        first = range(total) if given.classes is None else given.classes
        for method in given.methods or usual:
            rows: list[Row] = []
            for cls in first:
                classes = [(cls + k) % total for k in range(given.at_once)]
                began = time.process_time()
                if method == "retrain":
                    model = network.retrained(cls)
                else:
                    model = copy.deepcopy(network.model)
                    edits[method](model, network, classes)
                seconds = time.process_time() - began
                figures = {**measure(model, network, layer, classes, tests), "seconds": seconds}
                facts = {**network.facts, "codes": not given.no_codes, "method": method, "classes": classes}
                rows.append(facts | {key: round(value, 3) for key, value in figures.items()})
            save_rows("inside", rows, given.output, KEY)
            means = {key: round(sum(row[key] for row in rows) / len(rows), 1) for key in figures}
            print(network, method, means, flush=True)


if __name__ == "__main__":
    main()
