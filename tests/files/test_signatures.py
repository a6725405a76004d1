"""Signed receipts and reports: who signed, and that nothing was changed since."""

import json
import sys
from pathlib import Path

import pytest
from known_codes import model_with_codes
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fastforget import Receipt, one_shot
from fastforget.auditing import load_report
from fastforget.auditing.report_file import save_report
from fastforget.files import checked

pytest.importorskip("cryptography")
from fastforget.files.signing import SigningKey

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
REPORT = {"model": "0" * 16, "metrics": {"gap": 0.1 + 0.2, "ä": [1, None, 1e-300]}, "findings": []}


@pytest.fixture
def receipt() -> Receipt:
    model, codes = model_with_codes()
    return one_shot(model, codes, 2)


def test_a_signed_receipt(receipt: Receipt, tmp_path: Path) -> None:
    path = tmp_path / "receipt"
    receipt.save(path, key=KEY)
    assert Receipt.load(path).describe() == Receipt.load(path, signed_by=KEY.public).describe() == receipt.describe()
    with pytest.raises(ValueError, match=r"is not a usable receipt: it must be signed by the key .*, got "):
        Receipt.load(path, signed_by=OTHER.public)
    receipt.save(path)
    with pytest.raises(ValueError, match=r"it must be signed by the key .*, but it is not signed"):
        Receipt.load(path, signed_by=KEY.public)


@pytest.mark.parametrize("what", ["description", "values", "signature", "signer", "half"])
def test_a_signed_receipt_that_was_changed(what: str, receipt: Receipt, tmp_path: Path) -> None:
    """Its checksum is made right, as a forger would."""
    path = tmp_path / "receipt"
    receipt.save(path, key=KEY)
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        header = dict(file.metadata())
    if what == "description":
        header["receipt"] = json.dumps({**json.loads(header["receipt"]), "classes": [1]})
    elif what == "values":
        next(value for name, value in tensors.items() if name.endswith("/new")).add_(1)
    elif what == "signature":
        header["signature"] = header["signature"][::-1]
    elif what == "signer":
        header["public_key"] = OTHER.public.text
    else:
        del header["signature"]
    header["sha256"] = checked.checksum(header["receipt"], tensors)
    save_file(tensors, path, metadata=header)
    for signer in (None, KEY.public):
        with pytest.raises(ValueError, match="is not a usable receipt"):
            Receipt.load(path, signed_by=signer)


def test_a_signature_of_another_kind_of_file_does_not_fit(tmp_path: Path) -> None:
    from fastforget.files.signatures import check_signature, signature_of

    found = signature_of("receipt", "0" * 64, KEY)
    check_signature("receipt", "0" * 64, found, KEY.public)
    with pytest.raises(ValueError, match="it was changed after the key"):
        check_signature("audit", "0" * 64, found, KEY.public)


def test_a_signed_report(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    save_report(path, REPORT, KEY)
    assert load_report(path) == load_report(path, signed_by=KEY.public) == REPORT
    with pytest.raises(ValueError, match=r"is not a usable report: it must be signed by the key .*, got "):
        load_report(path, signed_by=OTHER.public)
    path.write_text(path.read_text().replace("1e-300", "1e-301"))
    with pytest.raises(ValueError, match="it was changed after the key"):
        load_report(path)
    save_report(path, REPORT, None)
    assert load_report(path) == REPORT
    with pytest.raises(ValueError, match="but it is not signed"):
        load_report(path, signed_by=KEY.public)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"model": "", "metrics": NaN, "findings": []}',
        '{"model": "", "metrics": {}, "findings": [], "signed": 3}',
        '{"model": "", "metrics": {}, "findings": [], "signed": {"signature": "x"}}',
        '{"model": "", "metrics": {}, "findings": [], "signed": {"public_key": "x", "signature": "x"}}',
    ],
)
def test_a_file_that_is_no_report(text: str, tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is not a usable report"):
        load_report(path)


def test_what_is_signed_needs_the_library(receipt: Receipt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "receipt"
    receipt.save(path)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    assert Receipt.load(path).classes == (2,)
    monkeypatch.undo()
    receipt.save(path, key=KEY)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastforget\[signing\]'"):
        Receipt.load(path)
