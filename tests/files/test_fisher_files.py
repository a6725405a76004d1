"""The file of a Fisher diagonal: exact round trips, whole or not at all, and a clear refusal of everything else."""

import json
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from asserts import prepared
from fisher.partial_sums import GROUPS, assert_same, assert_total, part, parts, snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from known_codes import model_with_codes
from models import LABELS, MODELS
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastforget import FisherDiagonal, fisher_diagonal
from fastforget.files import checked
from fastforget.fisher.diagonal import FisherDiagonal as Diagonal

KINDS: dict[str, Callable[[], Diagonal]] = {
    "given": lambda: part("mlp", slice(0, 5)),
    "expectation": lambda: part("mlp", slice(0, 5), "expectation"),
    "groups": lambda: part("resnet", slice(0, 5), "groups"),
    "custom loss": lambda: part("mlp", slice(0, 5), "custom loss"),
    "mean": lambda: part("mlp", slice(0, 5)).mean(),
    "difference": lambda: part("mlp", slice(0, 5)) - part("mlp", slice(0, 2)),
    "float64": lambda: fisher_diagonal(
        prepared(MODELS["mlp"][0]).double(), MODELS["mlp"][1].double(), LABELS, weights=GROUPS, reduction="sum"
    ),
    "fallback": lambda: fisher_diagonal(
        prepared(lambda: nn.Sequential(nn.Linear(9, 4), nn.PReLU(4))), MODELS["mlp"][1], LABELS, reduction="sum"
    ),
    "scalar": lambda: fisher_diagonal(
        prepared(lambda: nn.Sequential(nn.PReLU(), nn.Linear(9, 4))), MODELS["mlp"][1], LABELS, reduction="sum"
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str, tmp_path: Path) -> None:
    found = KINDS[kind]()
    found.save(tmp_path / "fisher.safetensors")
    loaded = FisherDiagonal.load(str(tmp_path / "fisher.safetensors"))
    assert_same(loaded, snapshot(found))
    assert [path.name for path in tmp_path.iterdir()] == ["fisher.safetensors"]


def test_parts_from_files_merge_to_the_whole(tmp_path: Path) -> None:
    """As processes would do it: each saves its part."""
    for number, one in enumerate(parts("resnet")):
        one.save(tmp_path / str(number))
    whole = part("resnet", slice(0, 5))
    merged = FisherDiagonal.merge(FisherDiagonal.load(path) for path in sorted(tmp_path.iterdir()))
    assert_total(merged, whole)


def test_a_loaded_sum_grows(tmp_path: Path) -> None:
    part("mlp", slice(0, 3)).save(tmp_path / "fisher")
    total = FisherDiagonal.load(tmp_path / "fisher")
    assert part("mlp", slice(3, 5), into=total) is total
    assert_total(total, part("mlp", slice(0, 5)))


def test_a_mean_of_an_unknown_model_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'only sums know their model and can be saved: compute with reduction="sum"'):
        part("mlp", slice(0, 5), reduction="mean").save(tmp_path / "fisher")
    assert not list(tmp_path.iterdir())


def test_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fisher"
    part("mlp", slice(0, 5)).save(path)
    before = path.read_bytes()

    def full(_: Any, where: Path, **__: Any) -> None:
        where.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(checked, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        part("mlp", slice(0, 2)).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_missing_file_is_the_systems_own_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FisherDiagonal.load(tmp_path / "none")


@cache
def content() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fisher"
        model = nn.Linear(3, 2).eval()
        fisher_diagonal(model, torch.randn(4, 3), torch.tensor([0, 1, 1, 0]), reduction="sum", with_gradient=True).save(
            path
        )
        return path.read_bytes()


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match="is not a usable Fisher diagonal") as caught:
        FisherDiagonal.load(path)
    assert caught.type is ValueError
    text = str(caught.value)
    assert text.startswith(f"`{path}` is not a usable Fisher diagonal: ")
    return text


several = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)


@several
@given(data=st.data())
def test_truncated_anywhere(data: st.DataObject, tmp_path: Path) -> None:
    (tmp_path / "fisher").write_bytes(content()[: data.draw(st.integers(0, len(content()) - 1))])
    refused(tmp_path / "fisher")


@settings(several, max_examples=300)
@given(data=st.data())
def test_one_flipped_byte_never_loads_as_something_else(data: st.DataObject, tmp_path: Path) -> None:
    path, whole = tmp_path / "fisher", bytearray(content())
    path.write_bytes(whole)
    expected = snapshot(FisherDiagonal.load(path))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    try:
        found = FisherDiagonal.load(path)
    except ValueError as error:
        assert str(error).startswith(f"`{path}` is not a usable Fisher diagonal: ")  # noqa: PT017 (either is right)
        return
    assert_same(found, expected)


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "fisher"
    save_file({"fisher/weight": torch.zeros(3)}, path)
    assert "the header's `format` must be 'fastforget.fisher', got None" in refused(path)
    model_with_codes()[1].save(path)
    assert "got 'fastforget.codes'" in refused(path)
    torch.save({"fisher": 1}, path)
    assert "not a complete safetensors file" in refused(path)
    path.write_bytes(b"")
    refused(path)


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], Any]) -> None:
    """Change the description or the tensors and make the checksum right, as a forger would."""
    path.write_bytes(content())
    data, tensors = path.read_bytes(), load_file(path)
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])["__metadata__"]
    description = json.loads(header["fisher"])
    change(description, tensors)
    header["fisher"] = json.dumps({key: value for key, value in description.items() if value is not None})
    header["sha256"] = checked.checksum(header["fisher"], tensors)
    save_file(tensors, path, metadata=header)


def described(**changes: Any) -> Callable[[dict[str, Any], Any], None]:
    return lambda description, _: description.update(changes)


def stored(name: str, value: Tensor | None) -> Callable[[Any, dict[str, Tensor]], None]:
    def change(_: Any, tensors: dict[str, Tensor]) -> None:
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value

    return change


W = torch.ones(2, 3)
DEFINITION = {"labels": "given", "square": "sample", "loss": "cross_entropy", "scale": 1.0}
FORGED: list[tuple[Callable[[Any, Any], Any], str]] = [
    (described(model=None), "the header's `fisher` must have the fields ['definition', 'fallback', 'model', 'names'"),
    (described(more=1), "the header's `fisher` must have the fields"),
    (described(model=3), "the header's `model` must be a text, got 3"),
    (described(reduction="max"), 'the header\'s `reduction` must be "mean" or "sum", got \'max\''),
    (described(reduction=["sum"]), "the header's `reduction` must be"),
    (described(samples=-1), "the header's `samples` must be a count, got -1"),
    (described(samples=1.5), "the header's `samples` must be a count, got 1.5"),
    (described(weight=-1.0), "the header's `weight` must be a weight, or a list of them, got -1.0"),
    (described(weight=float("nan")), "the header's `weight` must be a weight"),
    (described(weight=float("inf")), "the header's `weight` must be a weight"),
    (described(weight=[]), "the header's `weight` must be a weight"),
    (described(weight="4"), "the header's `weight` must be a weight"),
    (described(weight=[1.0, "x"]), "the header's `weight` must be a weight"),
    (described(weight=[1.0, 2.0, 3.0]), "'fisher/weight' must be float32 or float64 of shape (3, ...), got"),
    (described(fallback=[]), "the header's `fallback` must be an object of reasons, got []"),
    (described(fallback={"weight": 1}), "the header's `fallback` must be an object of reasons"),
    (described(names=["weight", "weight"]), "the header's `names` must be a list of names"),
    (described(names=[]), "the header's `names` must be a list of names, got []"),
    (described(names=[1]), "the header's `names` must be a list of names, got [1]"),
    (described(names="weight"), "the header's `names` must be a list of names, got 'weight'"),
    (described(names=["weight"]), "the header and the tensors name different parameters"),
    (described(names=["weight", "bias", "more"]), "the header and the tensors name different parameters"),
    (described(definition=[]), "the header's `definition` must be an object, got []"),
    (described(definition={}), "the header's `definition` must have the fields ['labels', 'loss', 'scale', 'square']"),
    (described(definition={**DEFINITION, "scale": "1"}), "the header's `scale` must be a number, got '1'"),
    (described(definition={**DEFINITION, "loss": 1}), "the header's `loss` must be a text, got 1"),
    (stored("fisher/bias", None), "the header and the tensors name different parameters"),
    (stored("gradient/bias", None), "the header and the tensors name different parameters"),
    (stored("spare", W), "the header and the tensors name different parameters"),
    (stored("losses", None), "it lacks the tensor 'losses'"),
    (stored("losses", W), "it lacks the tensor 'losses'"),
    (stored("losses", torch.arange(4)), "it lacks the tensor 'losses'"),
    (stored("fisher/weight", W.half()), "'fisher/weight' must be float32 or float64"),
    (stored("fisher/weight", W.long()), "'fisher/weight' must be float32 or float64"),
    (stored("fisher/weight", -W), "'fisher/weight' must be finite, and a Fisher not negative"),
    (stored("fisher/weight", W * float("nan")), "'fisher/weight' must be finite"),
    (stored("gradient/weight", W * float("inf")), "'gradient/weight' must be finite"),
    (
        stored("gradient/weight", W.T.contiguous()),
        "'gradient/weight' must be of the dtype and shape of 'fisher/weight'",
    ),
    (stored("gradient/weight", W.double()), "'gradient/weight' must be of the dtype and shape of 'fisher/weight'"),
]


@pytest.mark.parametrize(("change", "text"), FORGED, ids=range(len(FORGED)))
def test_forged(change: Any, text: str, tmp_path: Path) -> None:
    rewrite(tmp_path / "fisher", change)
    assert text in refused(tmp_path / "fisher")


def test_rewriting_nothing_gives_a_good_file(tmp_path: Path) -> None:
    rewrite(tmp_path / "fisher", lambda *_: None)
    assert FisherDiagonal.load(tmp_path / "fisher").samples == 4
