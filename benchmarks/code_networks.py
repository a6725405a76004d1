"""Networks that were trained with their codes, for benchmarks: what a step meets depends on how they know them.

They are trained on one thread when first asked for, which takes seconds to minutes, and kept beside those of the
quality tables.
"""

from __future__ import annotations

import sys
from pathlib import Path

import networks
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget import MnemonicCodes
from fastforget.demo.data import Dataset, load_digits

sys.path.append(str(Path(__file__).parent / "quality"))
from common import CACHE
from problems import PROBLEMS, CodeChoice, Problem, trained

DIGITS_32 = "digits32/resnet18"
NAMES = {
    "resnet18, 10 codes": DIGITS_32,
    "small resnet, 40 codes": "fashion/resnet",
    "digits, 40 codes": "digits/cnn",
    "mlp, 40 codes": "fashion/mlp",
}


def known(name: str) -> tuple[nn.Module, MnemonicCodes]:
    """Return a network of `NAMES` and its codes: trained with them, in eval mode.

    The ResNet-18 for 32x32 colour images is trained for two passes on scikit-learn's digits, scaled up, with one code
    per class; the others as in the quality tables, with four.
    """
    key = NAMES[name]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if key == DIGITS_32:
            problem = Problem(DIGITS_32, lambda data: networks.resnet18_cifar(len(data.class_names)), 2, 32, lr=0.05)
            data, choice = _scaled_up(load_digits(0)), CodeChoice(per_class=1)
        else:
            problem = PROBLEMS[key]
            data, choice = problem.dataset(0), CodeChoice(4, problem.codes)
        return trained(problem, data, 0, choice, CACHE), choice.codes(data, 0)
    finally:
        torch.set_num_threads(threads)


def fitted(name: str) -> tuple[nn.Module, MnemonicCodes]:
    """Return a network of the same size that knows codes by its last layer alone: in seconds, to try what runs."""
    torch.manual_seed(0)
    if name.startswith("resnet18"):
        model, shape, per_class = networks.resnet18_cifar(), (3, 32, 32), 1
    else:
        key = NAMES[name]
        size = 8 if key.startswith("digits") else 28
        data = Dataset("", tuple("0123456789"), *(torch.zeros(1, 1, size, size), torch.zeros(1).long()) * 2)
        model, shape, per_class = PROBLEMS[key].build(data).eval(), (1, size, size), 4
    assert isinstance(model, nn.Sequential), "its last layer is fitted"
    codes = MnemonicCodes.generate(10, shape, per_class=per_class)
    body, head = model[:-1], model[-1]
    with torch.no_grad():
        features = body(codes.inputs)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(500):
        optimiser.zero_grad()
        F.cross_entropy(head(features), codes.labels).backward()
        optimiser.step()
    return model, codes


def _scaled_up(data: Dataset) -> Dataset:
    def scaled(images: Tensor) -> Tensor:
        return F.interpolate(images, (32, 32), mode="bilinear").expand(-1, 3, -1, -1).contiguous()

    return Dataset("digits32", data.class_names, scaled(data.x_train), data.y_train, scaled(data.x_test), data.y_test)
