"""Make a network of timm forget a class that it learnt without codes, from a few images, and save it for timm.

    # with the extras demo and timm
    python examples/timm_model.py --folder forgotten --forget 3

Any classifier of timm can stand in place of the small one here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastforget
from fastforget.demo.data import load_digits
from fastforget.integrations import history_of, save_forgotten

PER_CLASS = 16


def images(digits: Tensor) -> Tensor:
    """Return digits of 8x8 pixels in the size that the network is made for, at least."""
    return F.interpolate(digits, scale_factor=4, mode="nearest")


def train(model: nn.Module, inputs: Tensor, targets: Tensor, epochs: int = 12) -> None:
    """Train in the way of everybody: nothing here knows that something will be forgotten."""
    parts = [torch.randperm(len(targets)).split(64) for _ in range(epochs)]
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    model.train()
    for part in (part for epoch in parts for part in epoch):
        F.cross_entropy(model(inputs[part]), targets[part]).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def a_few(targets: Tensor) -> Tensor:
    """Return the places of the first samples of each class."""
    return torch.cat([(targets == cls).nonzero()[:PER_CLASS, 0] for cls in targets.unique()])


def accuracies(model: nn.Module, inputs: Tensor, targets: Tensor, cls: int) -> str:
    """Return the accuracy on a class and on the others."""
    with torch.no_grad():
        right = model(inputs).argmax(1) == targets
    asked, rest = right[targets == cls].double().mean(), right[targets != cls].double().mean()
    return f"{asked:.1%} of the class, {rest:.1%} of the rest"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the network is saved")
    parser.add_argument("--forget", type=int, default=3, help="the class to forget")
    parser.add_argument("--model", default="test_resnet", help="a name that timm.create_model takes")
    return parser.parse_args()


def main() -> None:
    given = parse()
    torch.manual_seed(0)
    data = load_digits()
    model = timm.create_model(given.model, num_classes=10, in_chans=1)
    model.pretrained_cfg["label_names"] = data.class_names
    inputs = images(data.x_train)
    train(model, inputs, data.y_train)

    print("recognised before:", accuracies(model, images(data.x_test), data.y_test, given.forget))
    few = a_few(data.y_train)
    receipt = fastforget.one_shot(model, None, given.forget, samples=(inputs[few], data.y_train[few]))
    print(f"outcome: {receipt.outcome}")
    save_forgotten(model, given.folder, receipt)

    loaded = timm.create_model(f"local-dir:{given.folder}", pretrained=True).eval()
    print("recognised after: ", accuracies(loaded, images(data.x_test), data.y_test, given.forget))
    history = history_of(given.folder)
    print("forgotten, says the folder:", list(history.forgotten))
    print("the weights are those it speaks of:", history.leads_to(fastforget.fingerprint(loaded)))


if __name__ == "__main__":
    main()
