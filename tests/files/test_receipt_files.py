"""The file of a receipt: exact round trips, and a clear refusal of everything else."""

import copy
import dataclasses
import json
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from edits.edited_models import RULES, edited
from files import old_receipt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from known_codes import assert_holds, copied_tensors, model_with_codes, refused
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastforget import MnemonicCodes, Receipt, __version__, fingerprint, one_shot
from fastforget.files import checked

FOUR = torch.arange(4.0)


@pytest.mark.parametrize("undo", [True, False])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_round_trip(rule: Any, undo: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    model, codes = model_with_codes()
    original = copy.deepcopy(model.to(dtype))
    receipt = one_shot(model, codes, [1], rule=rule, rho=0.1, undo=undo)
    receipt.save(tmp_path / "receipt.safetensors")
    loaded = Receipt.load(str(tmp_path / "receipt.safetensors"))
    for field in dataclasses.fields(Receipt):
        if field.name != "edits":
            assert getattr(loaded, field.name) == getattr(receipt, field.name)
            assert type(getattr(loaded, field.name)) is type(getattr(receipt, field.name))
    assert loaded.edits.keys() == receipt.edits.keys()
    for name, edit in receipt.edits.items():
        assert loaded.edits[name].shape == edit.shape
        for part in ("indices", "old", "new"):
            expected, found = getattr(edit, part), getattr(loaded.edits[name], part)
            assert (expected is None) == (found is None)
            if expected is not None:
                assert_same_bits(found, expected)
    assert repr(loaded) == repr(receipt)
    assert loaded.describe() == receipt.describe()
    other = copy.deepcopy(original)
    loaded.apply(other)
    assert_holds(other, copied_tensors(model))
    if undo:
        loaded.revert(model)
        assert_holds(model, copied_tensors(original))


def test_a_file_of_version_1(tmp_path: Path) -> None:
    """What it does not say is empty."""
    (tmp_path / "receipt").write_bytes(old_receipt.CONTENT)
    receipt = Receipt.load(tmp_path / "receipt")
    assert (receipt.codes, receipt.forgotten, receipt.versions) == ("", (), {})
    assert (receipt.classes, receipt.rule, receipt.changed, receipt.claims) == ((1,), "natural", 5, ("disconnected",))
    model = nn.Linear(4, 3).eval()
    with torch.no_grad():  # as when it was made
        model.weight.copy_(MnemonicCodes.generate(3, (4,), per_class=1).tensor.squeeze(1))
        model.bias.zero_()
    before = copied_tensors(model)
    receipt.apply(model)
    assert fingerprint(model) == receipt.after
    receipt.revert(model)
    assert_holds(model, before)
    receipt.save(tmp_path / "again")
    again = Receipt.load(tmp_path / "again")
    assert again.describe() == receipt.describe()
    assert again.versions == {}


def test_what_the_edit_was_made_with(tmp_path: Path) -> None:
    model, codes = model_with_codes()
    first = one_shot(model, codes, 3)
    second = one_shot(model, codes.stacked, [1, 0], forgotten=3)  # a tensor, of the same codes
    without = one_shot(model_with_codes()[0], None, 1, samples=(codes.inputs, codes.labels), level="output")
    for receipt, forgotten, of_codes in (
        (first, (), codes.fingerprint()),
        (second, (3,), codes.fingerprint()),
        (without, (), ""),
    ):
        receipt.save(tmp_path / "receipt")
        for one in (receipt, Receipt.load(tmp_path / "receipt"), receipt.without_undo()):
            assert (one.forgotten, one.codes) == (forgotten, of_codes)
            assert one.versions == {"fastforget": __version__, "torch": torch.__version__}


def test_file_is_as_large_as_what_changed(tmp_path: Path) -> None:
    """Twelve bytes per element with the old values, eight without; the header is the rest."""
    sizes = {}
    for rho in (0.1, 0.5):
        for undo in (True, False):
            _, _, receipt = edited(rho=rho, undo=undo)
            receipt.save(tmp_path / "receipt")
            sizes[rho, undo] = receipt.changed, (tmp_path / "receipt").stat().st_size
    for undo, each in ((True, 12), (False, 8)):
        (few, small), (many, large) = sizes[0.1, undo], sizes[0.5, undo]
        assert many > 3 * few
        assert large - small == pytest.approx(each * (many - few), abs=400)


def test_path_is_overwritten_and_missing_one_is_the_systems_error(tmp_path: Path) -> None:
    _, _, receipt = edited()
    (tmp_path / "receipt").write_text("something else")
    receipt.save(tmp_path / "receipt")
    assert Receipt.load(tmp_path / "receipt").after == receipt.after
    with pytest.raises(FileNotFoundError):
        Receipt.load(tmp_path / "none")


@cache
def content(rule: str, undo: bool = True) -> bytes:
    """A receipt's file."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "receipt"
        edited(rule, undo=undo)[2].save(path)
        return path.read_bytes()


def assert_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is not a usable receipt") as caught:
        Receipt.load(path)
    assert caught.type is ValueError
    assert str(caught.value).startswith(f"`{path}` is not a usable receipt: ")


several = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)


@several
@given(data=st.data(), rule=st.sampled_from(RULES))
def test_truncated_anywhere(data: st.DataObject, rule: str, tmp_path: Path) -> None:
    whole = content(rule)
    length = data.draw(st.one_of(st.integers(0, 300), st.integers(0, len(whole) - 1)))
    assert_refused(tmp_path / "receipt", whole[:length])


@several
@given(more=st.binary(min_size=1, max_size=20), rule=st.sampled_from(RULES))
def test_extended(more: bytes, rule: str, tmp_path: Path) -> None:
    assert_refused(tmp_path / "receipt", content(rule) + more)


@settings(several, max_examples=400)
@given(data=st.data(), rule=st.sampled_from(RULES))
def test_one_flipped_byte_never_loads_as_something_else(data: st.DataObject, rule: str, tmp_path: Path) -> None:
    whole = bytearray(content(rule))
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    # the header is small beside the values, and the more delicate part
    position = data.draw(st.one_of(st.integers(0, header - 1), st.integers(header, len(whole) - 1)))
    whole[position] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "receipt"
    path.write_bytes(whole)
    try:
        found = Receipt.load(path)
    except ValueError as error:
        assert str(error).startswith(f"`{path}` is not a usable receipt: ")  # noqa: PT017 (either outcome is right)
        return
    path.write_bytes(content(rule))
    expected = Receipt.load(path)
    assert found.describe() == expected.describe()
    for name, edit in expected.edits.items():
        for part in ("indices", "old", "new"):
            a, b = getattr(found.edits[name], part), getattr(edit, part)
            assert (a is None) == (b is None)
            if b is not None:
                assert_same_bits(a, b)


def test_every_byte_of_the_description_is_checked(tmp_path: Path) -> None:
    """Digits, among others: a change that is still JSON, and still of the right types."""
    whole = content("natural", undo=False)
    start = whole.index(b'"receipt":"') + 11
    for position in range(start, start + 200):
        changed = bytearray(whole)
        changed[position] ^= 1
        assert_refused(tmp_path / "receipt", bytes(changed))


def rewrite(path: Path, change: Callable[[dict[str, str], dict[str, Tensor]], Any]) -> None:
    """Change the header or the tensors of a receipt and make its checksum right, as a forger would."""
    path.write_bytes(content("natural"))
    tensors = load_file(path)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])["__metadata__"]
    change(header, tensors)
    if header.get("sha256") != "kept":
        header["sha256"] = checked.checksum(header["receipt"] or "", tensors)
    save_file(tensors, path, metadata={key: value for key, value in header.items() if value is not None})


def described(**changes: Any) -> Callable[[dict[str, str], Any], None]:
    """Change fields of the description; None removes one."""

    def change(header: dict[str, str], _: Any) -> None:
        description = {**json.loads(header["receipt"]), **changes}
        header["receipt"] = json.dumps({key: value for key, value in description.items() if value is not None})

    return change


def with_header(**changes: Any) -> Callable[[dict[str, Any], Any], None]:
    return lambda header, _: header.update(changes)


def with_tensors(**changes: Any) -> Callable[[Any, dict[str, Tensor]], None]:
    def change(_: Any, tensors: dict[str, Tensor]) -> None:
        for name, value in changes.items():
            tensors.pop(f"0.weight/{name}", None)
            if value is not None:
                tensors[f"0.weight/{name}"] = value

    return change


def test_rewriting_nothing_gives_a_good_file(tmp_path: Path) -> None:
    rewrite(tmp_path / "receipt", lambda *_: None)
    assert Receipt.load(tmp_path / "receipt").changed == 97  # 71, and what the output row and biases have beside these


FORGED: list[tuple[Callable[[Any, Any], Any], str]] = [
    (with_header(format="pt"), "the header's `format` must be 'fastforget.receipt', got 'pt'"),
    (with_header(format="fastforget.codes"), "must be 'fastforget.receipt', got 'fastforget.codes'"),
    (with_header(format=""), "the header's `format` must be 'fastforget.receipt', got ''"),
    (with_header(version="3"), "its version is 3 and this fastforget knows 2: update fastforget"),
    (with_header(version="0"), "the header's `version` must be a positive number, got '0'"),
    (with_header(version="-1"), "the header's `version` must be a positive number, got '-1'"),
    (with_header(version="1.0"), "the header's `version` must be a positive number, got '1.0'"),
    (with_header(version="٣"), "the header's `version` must be a positive number, got '٣'"),
    (with_header(version="9" * 5000), "the header's `version` must be a positive number, got '99"),
    (with_header(version=""), "the header's `version` must be a positive number, got ''"),
    (with_header(sha256="kept"), "it was changed after it was written, its checksum does not match"),
    (with_header(receipt="{"), "the header's `receipt` must be a JSON object"),
    (with_header(receipt=""), "the header's `receipt` must be a JSON object"),
    (with_header(receipt="[]"), "the header's `receipt` must be a JSON object"),
    (with_header(receipt="[" * 100_000), "the header's `receipt` must be a JSON object"),
    (with_header(receipt="1" * 5000), "the header's `receipt` must be a JSON object"),
    (described(alpha=None), "the header's `receipt` must have the fields ['after', 'alpha', 'before'"),
    (described(shapes=None), "the header's `receipt` must have the fields"),
    (described(edits={}), "the header's `receipt` must have the fields"),
    (described(more=1), "the header's `receipt` must have the fields"),
    (described(alpha="1"), "the header's `alpha` must be a number, got '1'"),
    (described(alpha=True), "the header's `alpha` must be a number, got True"),
    (described(total=1.5), "the header's `total` must be a count, got 1.5"),
    (described(total=-1), "the header's `total` must be a count, got -1"),
    (described(total=10**30), "the header's `total` must be a count"),
    (described(before=7), "the header's `before` must be a text, got 7"),
    (described(after=["x"]), "the header's `after` must be a text, got ['x']"),
    (described(rule={}), "the header's `rule` must be a text, got {}"),
    (described(created=0), "the header's `created` must be a text, got 0"),
    (described(classes="12"), "the header's `classes` must be a list of classes, got '12'"),
    (described(classes=[1.5]), "the header's `classes` must be a list of classes, got [1.5]"),
    (described(classes=[-1]), "the header's `classes` must be a list of classes, got [-1]"),
    (described(forgotten=3), "the header's `forgotten` must be a list of classes, got 3"),
    (described(codes=[]), "the header's `codes` must be a text, got []"),
    (described(versions={"torch": 2}), "the header's `versions` must be an object of texts, got {'torch': 2}"),
    (described(settings=[]), "the header's `settings` must be an object of numbers and texts, got []"),
    (
        described(settings={"rho": []}),
        "the header's `settings` must be an object of numbers and texts, got {'rho': []}",
    ),
    (described(seconds={"total": [1]}), "the header's `seconds` must be an object of numbers"),
    (described(evidence=3), "the header's `evidence` must be an object of numbers, got 3"),
    (described(shapes=[]), "the header's `shapes` must be an object of shapes, got []"),
    (described(shapes={"0.weight": 3}), "the header's `shapes` must be an object of shapes"),
    (described(shapes={"0.weight": [1.0]}), "the header's `shapes` must be an object of shapes"),
    (described(shapes={"0.weight": [64, 6]}), "the header and the tensors name different parameters"),
    (lambda _, tensors: tensors.pop("0.weight/new"), "it lacks the tensor '0.weight/new'"),
    (lambda _, tensors: tensors.pop("0.weight/indices"), "an edit must hold one new value per changed element"),
    (lambda _, tensors: tensors.update(spare=torch.zeros(1)), "it holds an unknown tensor 'spare'"),
    (lambda _, tensors: tensors.update({"a/new": torch.zeros(1)}), "name different parameters"),
    (with_tensors(new=torch.zeros(())), "an edit must hold one new value per changed element, got shape ()"),
    (with_tensors(new=torch.zeros(3)), "an edit must hold as many old values as new ones"),
    (with_tensors(old=torch.zeros(3)), "an edit must hold as many old values as new ones"),
    (with_tensors(indices=torch.zeros(3)), "an edit must hold one int32 or int64 index per changed element"),
    (with_tensors(indices=torch.tensor([9, 5]), old=None, new=FOUR[:2]), "an edit's indices must increase"),
    (with_tensors(indices=torch.tensor([9, 500]), old=None, new=FOUR[:2]), "an edit's indices must lie in [0, 384)"),
]


@pytest.mark.parametrize(("change", "text"), FORGED, ids=range(len(FORGED)))
def test_forged(change: Any, text: str, tmp_path: Path) -> None:
    path = tmp_path / "receipt"
    rewrite(path, change)
    with pytest.raises(ValueError, match="is not a usable receipt") as caught:
        Receipt.load(path)
    assert caught.type is ValueError
    assert str(caught.value).startswith(f"`{path}` is not a usable receipt: ")
    assert text in str(caught.value)


@pytest.mark.parametrize("missing", ["receipt", "format", "version"])
def test_header_lacks_a_field(missing: str, tmp_path: Path) -> None:
    path = tmp_path / "receipt"
    rewrite(path, with_header(**{missing: None}))
    with pytest.raises(ValueError, match=f"{missing}"):
        Receipt.load(path)


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "receipt"
    save_file({"0.weight/new": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"the header's `format` must be .*, got None"):
        Receipt.load(path)
    model_with_codes()[1].save(path)
    with pytest.raises(ValueError, match=r"`format` must be .*, got 'fastforget\.codes'"):
        Receipt.load(path)
    torch.save({"receipt": 1}, path)
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        Receipt.load(path)
    assert_refused(path, b"")


def test_a_forged_receipt_that_loads_changes_no_other_model(tmp_path: Path) -> None:
    """Whoever knows the fingerprints can forge a receipt; parameters it does not fit stop it before a write."""
    path = tmp_path / "receipt"
    rewrite(path, with_tensors(indices=torch.tensor([5, 9]), old=FOUR[:2].double(), new=FOUR[:2].double()))
    original, model, _ = edited()
    forged = Receipt.load(path)
    with refused(original, ValueError, r"`0\.weight` must be torch\.float64 of shape"):
        forged.apply(original)
    with refused(model, ValueError, r"`0\.weight` must be torch\.float64 of shape"):
        forged.revert(model)
