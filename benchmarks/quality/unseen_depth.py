"""Table 11: how deep a class lies that a network never saw, and how deep others lie for samples not theirs.

The other problems were trained alike, and on all of them a class that was never seen ends about ten nats beyond the
boundary. Here small networks learn digits in other ways: other layers, optimisers, numbers of epochs, and smoothed
labels. Then it is anything from 3 to 36.

A row is one (network, optimiser, epochs, smoothing, class). All figures are nats of log-odds beyond the boundary:

* `own`, `stand_in`: on the class's test images, and those of other classes, each without its own class, as in
  `inside.py`, of a network trained without the class;
* `usual`: what `usual_depth` says of the network with the class, from 16 training images of each other class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from common import logits, parser, save_rows
from torch import Tensor, nn

from fastforget.demo.data import Dataset, load_digits
from fastforget.demo.models import small_resnet
from fastforget.functional.output_row import usual_depth

KEY = ("network", "optimizer", "epochs", "smoothing", "cls")
SEEN = 16  # training images of each class


def cnn() -> nn.Module:
    body = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def normalised() -> nn.Module:
    def layer(width: int) -> list[nn.Module]:
        return [nn.Linear(width, 128), nn.LayerNorm(128), nn.GELU()]

    return nn.Sequential(nn.Flatten(), *layer(64), *layer(128), nn.Linear(128, 10))


def tanh() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "cnn": cnn,
    "mlp": mlp,
    "layer norm, GELU": normalised,
    "tanh": tanh,
    "resnet": lambda: small_resnet(num_classes=10),
}
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, 2e-3, weight_decay=1e-4),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, 2e-3, weight_decay=0.05),
    "SGD": lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=5e-4),
    "SGD without decay": lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9),
}


@dataclass(frozen=True)
class Training:
    """How a network learns digits."""

    network: str
    optimizer: str
    epochs: int
    smoothing: float = 0.0

    def run(self, data: Dataset, without: int | None = None) -> nn.Module:
        """Train, on all classes or without one."""
        torch.manual_seed(0)
        model = NETWORKS[self.network]().train()
        optimizer = OPTIMIZERS[self.optimizer](list(model.parameters()))
        kept = torch.ones_like(data.y_train, dtype=torch.bool) if without is None else data.y_train != without
        x, y = data.x_train[kept], data.y_train[kept]
        for _ in range(self.epochs):
            for rows in torch.randperm(len(y)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(x[rows]), y[rows], label_smoothing=self.smoothing).backward()
                optimizer.step()
        return model.eval()


TRAININGS = [
    Training("cnn", "Adam", 3),
    Training("cnn", "Adam", 12),
    Training("cnn", "Adam", 40),
    Training("cnn", "Adam", 12, 0.1),
    Training("cnn", "SGD", 12),
    Training("cnn", "SGD without decay", 40),
    Training("mlp", "Adam", 12),
    Training("mlp", "Adam", 60),
    Training("mlp", "SGD", 20),
    Training("mlp", "SGD without decay", 60),
    Training("layer norm, GELU", "Adam", 12),
    Training("layer norm, GELU", "AdamW", 30),
    Training("layer norm, GELU", "SGD", 12),
    Training("tanh", "Adam", 40),
    Training("tanh", "SGD", 20),
    Training("resnet", "Adam", 8),
    Training("resnet", "SGD", 8),
]


def depths(values: Tensor, y: Tensor, cls: int) -> tuple[float, float]:
    """Return how far a class is beyond the boundary, on its own samples and on those that stand in for them."""
    wide, own = values.double(), y == cls
    others = wide.index_fill(1, torch.tensor([cls]), -torch.inf)
    stand_ins = others.scatter(1, y[:, None], -torch.inf)
    found = (rest.logsumexp(1) - wide[:, cls] for rest in (others, stand_ins))
    return tuple(float(deep[rows].mean()) for deep, rows in zip(found, (own, ~own), strict=True))  # type: ignore[return-value]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--classes", nargs="+", type=int, default=[3, 6])
    given = arguments.parse_args()
    torch.set_num_threads(1)
    data = load_digits(0)
    seen = torch.cat([(data.y_train == cls).nonzero()[:SEEN, 0] for cls in range(10)])
    for training in TRAININGS:
        model = training.run(data)
        for cls in given.classes:
            rows, others = seen[data.y_train[seen] != cls], [other for other in range(10) if other != cls]
            usual = float(usual_depth(logits(model, data.x_train[rows])[:, others]))
            own, stand_in = depths(logits(training.run(data, cls), data.x_test), data.y_test, cls)
            figures = {"own": own, "stand_in": stand_in, "usual": usual}
            row = {**vars(training), "cls": cls, **{name: round(value, 2) for name, value in figures.items()}}
            save_rows("unseen-depth", [row], given.output, KEY)
            print(row, flush=True)


if __name__ == "__main__":
    main()
