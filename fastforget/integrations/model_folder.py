"""Models that were made to forget, in folders that transformers and timm load."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, cast

from torch import nn

from fastforget.auditing.report import AuditReport
from fastforget.classifier.class_names import class_names
from fastforget.classifier.compilation import eager
from fastforget.edits.history import EditHistory
from fastforget.edits.receipt import Receipt, check_fingerprint
from fastforget.files import edit_history
from fastforget.files.durable import whole_files
from fastforget.integrations.checked_audit import check_audit
from fastforget.integrations.model_card import forgotten_section, with_section

__all__ = ["history_of", "save_forgotten"]

_HISTORY, _AUDIT, _CARD = "fastforget-history.json", "fastforget-audit.json", "README.md"
_WEIGHTS = {".bin", ".ckpt", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".safetensors"}
_NO_WEIGHTS = {"training_args.bin"}  # which the Trainer of transformers writes


def save_forgotten(
    model: nn.Module,
    folder: str | PathLike[str],
    receipts: Receipt | Sequence[Receipt],
    *,
    history: EditHistory | None = None,
    audit: AuditReport | None = None,
    processor: Any = None,
) -> EditHistory:
    """Save a model that was made to forget, with the history of what was forgotten and a model card that says so.

    A model of transformers is written by its ``save_pretrained``, one of timm by ``timm.models.save_for_hf``; both as
    safetensors. ``from_pretrained(folder)`` and ``timm.create_model("local-dir:" + folder, pretrained=True)`` load it.
    Beside the weights the folder gets ``fastforget-history.json``, which `history_of` reads, and the section "Forgotten
    classes" in ``README.md``. The section is replaced when the folder is saved again; the rest of the page stays.

    Receipts are not written: one that can be reverted holds what was forgotten.

    Args:
        model: As the last edit left it.
        folder: Made if it is not there. It must hold no weights that stay there, since they may know the class still.
        receipts: Of the edits since ``history``, in their order.
        history: The edits before. By default those that the folder names, if they led to what the first receipt
            edited.
        audit: What `fastforget.audit` measured after the last edit: written as ``fastforget-audit.json``, and its
            findings into the section.
        processor: What prepares inputs, a tokenizer or an image processor, saved beside the model.

    Returns:
        The history that was written.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The receipts do not follow each other, the model is not as the last one left it, or the folder holds
            other weights. Or the audit is of another model, or the model has adapters. Nothing is written.
        NotADirectoryError: ``folder`` is a file.
        ModuleNotFoundError: timm is not installed.
    """
    path, module = Path(folder), eager(model)
    save = _writer(module)
    if history is not None and not isinstance(history, EditHistory):
        raise TypeError(f"`history` must be an EditHistory, got {type(history).__name__}")
    if processor is not None and not hasattr(processor, "save_pretrained"):
        raise TypeError(f"`processor` must have `save_pretrained`, got {type(processor).__name__}")
    edits = _in_order(receipts)
    check_audit(audit, edits[-1])
    before = _earlier(path, edits[0]) if history is None else history
    check_fingerprint(edits[-1], module, old=True)
    _check_folder(path)
    for receipt in edits:
        before = before.followed_by(receipt)
    old = {file: _identity(file) for file in path.glob("model*") if _is_replaced(file.name)}
    save(path)
    for file, identity in old.items():  # another number of files than before: what was not replaced is not needed
        if file.exists() and _identity(file) == identity:
            file.unlink()
    if processor is not None:
        processor.save_pretrained(path)
    card = path / _CARD
    page = card.read_text(encoding="utf-8") if card.exists() else f"# {path.resolve().name}\n"
    section = forgotten_section(before, class_names(module), _HISTORY, audit)
    with whole_files(path / _HISTORY, card) as (history_draft, card_draft):
        history_draft.write_text((before.written_into(None) or {})[edit_history.KEY] + "\n", encoding="utf-8")
        card_draft.write_text(with_section(page, section), encoding="utf-8")
    (path / _AUDIT).unlink(missing_ok=True)  # of an earlier edit
    if audit is not None:
        audit.save(path / _AUDIT)
    return before


def history_of(folder: str | PathLike[str]) -> EditHistory:
    """Read which edits led to a model that `save_forgotten` wrote.

    ``history.leads_to(fastforget.fingerprint(model))`` says whether a model that was loaded is the one they led to, and
    ``history.forgotten`` which classes are forgotten; pass them on as ``one_shot(..., forgotten=...)``.

    Args:
        folder: The folder.

    Returns:
        The history; without edits if the folder has none.

    Raises:
        ValueError: It cannot be read, or is of a newer version.
    """
    path = Path(folder) / _HISTORY
    if not path.exists():
        return EditHistory()
    try:
        return EditHistory.read({edit_history.KEY: path.read_text(encoding="utf-8")})
    except ValueError as error:
        raise ValueError(f"`{path}` cannot be read: {error}") from error


def _writer(model: nn.Module) -> Callable[[Path], object]:
    """Return the function that writes a model's weights into a folder."""
    if hasattr(model, "peft_config"):
        raise ValueError(
            "`model` must be saved whole, got one with adapters, which would be saved alone: merge them first"
        )
    if hasattr(model, "save_pretrained"):
        own: Any = model.save_pretrained
        return cast("Callable[[Path], object]", own)
    if not hasattr(model, "pretrained_cfg"):
        raise TypeError(f"`model` must be a model of transformers or timm, got {type(model).__name__}")
    try:
        from timm.models import save_for_hf  # noqa: PLC0415 (not every installation has it)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("models of timm need timm to be saved: pip install timm") from error
    # timm leaves out the names of classes where their number is not that of the network in its list.
    settings = dict(cast("Mapping[str, Any]", model.pretrained_cfg)) if class_names(model) else {}
    labels = {key: settings[key] for key in ("label_names", "label_descriptions") if settings.get(key)}
    return lambda folder: save_for_hf(model, folder, model_config=labels, safe_serialization=True)


def _in_order(receipts: Any) -> list[Receipt]:
    edits = [receipts] if isinstance(receipts, Receipt) else receipts
    if not isinstance(edits, Sequence) or not all(isinstance(each, Receipt) for each in edits):
        raise TypeError(f"`receipts` must be a receipt or a sequence of them, got {type(receipts).__name__}")
    if not edits:
        raise ValueError("`receipts` must hold at least one receipt, got none")
    for place, (first, second) in enumerate(pairwise(edits)):
        if first.after != second.before:
            raise ValueError(
                f"`receipts` must follow each other, but {place} left the model {first.after}, and {place + 1} edited "
                f"{second.before}"
            )
    return list(edits)


def _earlier(folder: Path, first: Receipt) -> EditHistory:
    """Return the edits that a folder names up to the model that a receipt edited."""
    edits = history_of(folder).edits
    places = [place for place, edit in enumerate(edits) if edit.after == first.before]
    return EditHistory(edits[: places[-1] + 1]) if places else EditHistory()


def _check_folder(folder: Path) -> None:
    """Refuse a file, and a folder with weights, at any depth, that would stay there beside the new ones."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"`folder` must be a folder, got a file, {folder}")
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.suffix in _WEIGHTS)
    others = [file.as_posix() for file in files if file.name not in _NO_WEIGHTS and not _is_replaced(str(file))]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise ValueError(
            "`folder` must hold no weights from before the edit, which may know the class still, got "
            f"{others[:3]}{more}: remove them, or choose another folder"
        )


def _is_replaced(name: str) -> bool:
    """Whether a file is what the libraries write themselves: the weights, whole or in parts with their index."""
    return re.fullmatch(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?", name) is not None


def _identity(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_ino, found.st_mtime_ns
