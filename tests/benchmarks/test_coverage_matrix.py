"""Every case of the coverage matrix is right, its page is complete, and wrong results are recognised."""

import coverage_matrix
import layers
import pytest
import torch
from verdicts import attempted, judged


@pytest.mark.parametrize("name", layers.CASES)
def test_fastforget_is_right(name: str) -> None:
    assert coverage_matrix.verdict(name, coverage_matrix.OURS)[0] == "ok"


def test_the_page_has_every_case() -> None:
    lines = coverage_matrix.PAGE.read_text().splitlines()
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert rows[2:] == list(layers.CASES)


def test_verdicts() -> None:
    exact = {"a": torch.tensor([3.0, 4.0]).double(), "b": torch.ones(2).double(), "zero": torch.zeros(2).double()}
    right = {name: value.float() for name, value in exact.items()}
    assert judged(right, exact) == "ok"
    assert judged({**right, "a": right["a"] * (1 + 1e-3)}, exact) == "wrong: 1 of 3 tensors"
    assert judged({**right, "a": right["a"] * float("nan")}, exact) == "wrong: 1 of 3 tensors"
    assert judged({**right, "a": right["a"][:1]}, exact) == "wrong: 1 of 3 tensors"
    assert judged({**right, "zero": torch.ones(2)}, exact) == "wrong: 1 of 3 tensors"
    assert judged({"a": -right["a"]}, exact) == "wrong: 1, missing: 2 of 3 tensors"


def test_a_peer_that_fails_is_named() -> None:
    exact = {"a": torch.ones(2)}

    def absent() -> dict[str, torch.Tensor]:
        raise ModuleNotFoundError("No module named 'x'", name="x")

    def raising() -> dict[str, torch.Tensor]:
        raise RuntimeError("first line\nsecond line")

    assert attempted(absent, exact) == "not installed: x"
    assert attempted(raising, exact) == "error: RuntimeError: first line"
