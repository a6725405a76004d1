"""Provide what the service examples serve: a small network for scikit-learn's digits, its codes and its archive.

The network is trained once, in some ten seconds. The folder keeps it, and every process of a service finds it there.

    # with the extra demo
    python examples/digits_service.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import load_model, save_model
from torch import nn

from fastforget import MnemonicCodes
from fastforget.demo.data import load_digits
from fastforget.demo.models import small_resnet
from fastforget.demo.training import train
from fastforget.serving import LiveModel


def prepare(folder: Path) -> None:
    """Train the network unless the folder holds it."""
    checkpoint = folder / "digits.safetensors"
    if checkpoint.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    data, model = load_digits(0), small_resnet(num_classes=10, seed=0)
    codes = MnemonicCodes.generate(10, data.x_train.shape[1:], seed=0)
    train(model, data.x_train, data.y_train, codes, epochs=8, lr=0.1, batch_size=64, seed=0)
    codes.save(folder / "codes.safetensors")
    unfinished = checkpoint.with_suffix(".unfinished")
    save_model(model, str(unfinished))
    unfinished.replace(checkpoint)


def load(folder: Path) -> tuple[nn.Module, MnemonicCodes]:
    """Return the network as it was trained, with its codes."""
    model = small_resnet(num_classes=10, seed=0)
    load_model(model, folder / "digits.safetensors")
    return model.eval(), MnemonicCodes.load(folder / "codes.safetensors")


def live(folder: Path) -> LiveModel:
    """Return the network in the current version of the folder's archive."""
    model, codes = load(folder)
    return LiveModel(model, codes, archive=folder / "archive", undo="expire:30d")


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
