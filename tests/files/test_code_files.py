"""The file of mnemonic codes: exact round trips, and a clear refusal of everything else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from fastforget.classifier.inputs import leaves
from fastforget.codes.mnemonic_codes import MnemonicCodes

CODES = {
    "tensor": MnemonicCodes.generate(3, (1, 4), distribution="uniform", per_class=2, seed=2**64 - 1),
    "tuple": MnemonicCodes.generate(2, [(3,), (), (2, 2)]),
    "many": MnemonicCodes.generate(1, [(1,)] * 11),
    "dict": MnemonicCodes.generate(2, {"b": (3,), "a": (2,)}, distribution="blocks"),
    "custom": MnemonicCodes.from_tensors((torch.arange(4).view(2, 2), torch.rand(2, 2, 3).to(torch.bfloat16))),
    "views": MnemonicCodes(torch.rand(3, 2, 5).transpose(0, 1)[..., ::2]),
}


@pytest.mark.parametrize("name", CODES)
def test_round_trip(name: str, tmp_path: Path) -> None:
    codes = CODES[name]
    path = tmp_path / "codes.safetensors"
    codes.save(path)
    loaded = MnemonicCodes.load(str(path))
    assert repr(loaded) == repr(codes)
    assert type(loaded.stacked) is type(codes.stacked)
    for before, after in zip(leaves(codes.stacked), leaves(loaded.stacked), strict=True):
        assert before.dtype == after.dtype
        assert torch.equal(before, after)


def test_one_tensor_under_two_names(tmp_path: Path) -> None:
    shared = torch.rand(2, 1, 3)
    MnemonicCodes((shared, shared)).save(tmp_path / "codes")
    assert len(leaves(MnemonicCodes.load(tmp_path / "codes").stacked)) == 2


def test_header(tmp_path: Path) -> None:
    path = tmp_path / "codes.safetensors"
    CODES["dict"].save(path)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"] == {
        "format": "fastforget.codes",
        "version": "1",
        "layout": "dict",
        "names": '["b", "a"]',
        "distribution": "blocks",
        "seed": "0",
    }


def test_missing_file_is_the_systems_own_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        MnemonicCodes.load(tmp_path / "none")


def test_truncated_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "codes"
    CODES["tuple"].save(path)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="does not hold usable codes: not a complete safetensors file") as caught:
            MnemonicCodes.load(path)
        assert str(path) in str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damaged_byte_is_refused_or_gives_valid_codes(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "codes"
    CODES["tensor"].save(path)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        codes = MnemonicCodes.load(path)
    except ValueError as error:
        assert str(error).startswith(f"`{path}` does not hold usable codes: ")  # noqa: PT017 (either outcome is right)
    else:
        assert all(leaf.isfinite().all() for leaf in leaves(codes.stacked))


GOOD = {
    "format": "fastforget.codes",
    "version": "1",
    "layout": "tensor",
    "names": '["0"]',
    "distribution": "normal",
    "seed": "0",
}
REFUSED: list[tuple[dict[str, Any], torch.Tensor, str]] = [
    ({"format": "pt"}, torch.rand(2, 1), "the header's `format` must be 'fastforget.codes', got 'pt'"),
    ({"format": None}, torch.rand(2, 1), "the header's `format` must be 'fastforget.codes', got None"),
    ({"version": "2"}, torch.rand(2, 1), "its version is 2 and this fastforget knows 1: update fastforget"),
    ({"version": "x"}, torch.rand(2, 1), "the header's `version` must be a positive number, got 'x'"),
    ({"version": None}, torch.rand(2, 1), "the header's `version` must be a positive number, got ''"),
    ({"seed": None, "names": None}, torch.rand(2, 1), "the header lacks ['names', 'seed']"),
    ({"layout": "set"}, torch.rand(2, 1), "the header's `layout` must be tensor, tuple or dict, got 'set'"),
    ({"seed": "-1"}, torch.rand(2, 1), "the header's `seed` must be a number or empty, got '-1'"),
    ({"names": "0"}, torch.rand(2, 1), "the header's `names` must be a JSON list of names, got '0'"),
    ({"names": "["}, torch.rand(2, 1), "the header's `names` must be a JSON list of names, got '['"),
    ({"names": "[" * 9000}, torch.rand(2, 1), f"the header's `names` must be a JSON list of names, got '{'[' * 9000}'"),
    ({"names": '["1"]'}, torch.rand(2, 1), "the header names the tensors ['1'], the file holds ['0']"),
    ({"names": '["0", "0"]'}, torch.rand(2, 1), "the header names the tensors ['0', '0'], the file holds ['0']"),
    ({}, torch.rand(2), "codes must be [C, M, *shape] and not empty, got shape (2,)"),
    ({}, torch.rand(2, 1).to(torch.float8_e5m2), "codes must be real and not quantised, got torch.float8_e5m2"),
    ({}, torch.full((2, 1), torch.nan), "codes must be finite, got NaN or infinity"),
]


@pytest.mark.parametrize(("change", "content", "text"), REFUSED, ids=[row[-1] for row in REFUSED])
def test_refused(change: dict[str, Any], content: torch.Tensor, text: str, tmp_path: Path) -> None:
    header = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    save_file({"0": content}, tmp_path / "codes", metadata=header)
    with pytest.raises(ValueError, match="usable codes") as caught:
        MnemonicCodes.load(tmp_path / "codes")
    assert str(caught.value) == f"`{tmp_path / 'codes'}` does not hold usable codes: {text}"


def test_tensor_layout_with_two_tensors(tmp_path: Path) -> None:
    two = {"0": torch.rand(2, 1), "1": torch.rand(2, 1)}
    save_file(two, tmp_path / "codes", metadata={**GOOD, "names": '["0", "1"]'})
    with pytest.raises(ValueError, match="the layout tensor means one tensor, got 2"):
        MnemonicCodes.load(tmp_path / "codes")


def test_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    torch.save({"codes": torch.rand(2, 1)}, tmp_path / "codes")
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        MnemonicCodes.load(tmp_path / "codes")
