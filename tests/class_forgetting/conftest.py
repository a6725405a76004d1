"""The trained network of the tests in this folder."""

import pytest
from known_codes import digits
from torch import nn

from fastforget import MnemonicCodes
from fastforget.demo.data import Dataset


@pytest.fixture(scope="session")
def trained() -> tuple[nn.Module, MnemonicCodes, Dataset]:
    return digits()
