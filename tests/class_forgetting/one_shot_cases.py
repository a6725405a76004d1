"""Settings of `one_shot` for small test models, and measurements of an edited one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastforget import MnemonicCodes
from fastforget.demo.data import Dataset
from fastforget.demo.training import confusion

FREE = 1e9  # nats: the remaining codes do not shorten the step
RHO = 0.1  # the small models have few parameters to spare


def accuracies(model: nn.Module, data: Dataset, classes: Sequence[int]) -> tuple[float, float]:
    """On the test images of some classes, and of the others."""
    matrix = confusion(model, data.x_test, data.y_test, 10).to(data.y_test.device)
    inside = torch.isin(torch.arange(10), torch.tensor(classes))
    right, all_of = matrix.diagonal(), matrix.sum(1)
    return float(right[inside].sum() / all_of[inside].sum()), float(right[~inside].sum() / all_of[~inside].sum())


def logits(model: nn.Module, codes: MnemonicCodes) -> Tensor:
    with torch.no_grad():
        return model(codes.inputs)
