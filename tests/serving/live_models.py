"""Live models of the digits, and a check of their health."""

import copy
from typing import Any

import known_codes
import torch
from torch import nn

from fastforget import MnemonicCodes
from fastforget.demo.data import Dataset
from fastforget.serving import LiveModel

X = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def digits() -> tuple[nn.Module, MnemonicCodes, Dataset]:
    """A network of one's own."""
    model, codes, data = known_codes.digits()
    return copy.deepcopy(model), codes, data


def live(**settings: Any) -> LiveModel:
    model, codes, _ = digits()
    return LiveModel(model, codes, **settings)


def assert_healthy(subject: LiveModel, number: int) -> None:
    version = subject.version
    assert subject.health() == {
        "version": number,
        "fingerprint": version.fingerprint,
        "classes": list(version.classes),
        "inside": 0,
        "editing": False,
        "intact": True,
        "written": True,
        "trouble": None,
        "follows": subject._follower.running,
    }
