"""Compare unlearning methods on digits, as compare_digits.toml says: `python examples/compare_digits.py`.

The functions are what the configuration names: the network, its data, and a method of one's own.
"""

from pathlib import Path

from torch import Tensor, nn

import fastforget
from fastforget.demo.data import load_digits


def network() -> nn.Module:
    """Return an untrained network."""
    layers = [nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(*layers)


def train() -> tuple[Tensor, Tensor]:
    """Return the training images and their classes."""
    data = load_digits()
    return data.x_train, data.y_train


def test() -> tuple[Tensor, Tensor]:
    """Return the test images and their classes."""
    data = load_digits()
    return data.x_test, data.y_test


def fresh_output(
    model: nn.Sequential, forget: tuple[Tensor, Tensor], remain: tuple[Tensor, Tensor], *, epochs: int, seed: int
) -> fastforget.Receipt:
    """Initialise the output layer again and train it on what remains; the layers below stay."""
    with fastforget.edits.recording(model, "fresh_output", settings={"epochs": epochs, "seed": seed}) as edit:
        edit.model[-1].reset_parameters()
        fastforget.baselines.cf_k(edit.model, forget, remain, k=1, epochs=epochs, lr=0.05, seed=seed)
    return edit.receipt


def main() -> None:
    found = fastforget.compare(Path(__file__).with_suffix(".toml"), progress=True)
    print(found)
    print(f"\nsee {found.folder / 'comparison.html'}")


if __name__ == "__main__":
    main()
