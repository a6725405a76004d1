"""The file format of receipts: safetensors with a versioned header and a checksum over everything.

Header: `format` "fastforget.receipt"; `version` "1"; `receipt`, the description as JSON; `sha256` of the
description and of all tensors. Tensors: "<parameter>/indices", "<parameter>/old", "<parameter>/new".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["read", "write"]

FORMAT = "fastforget.receipt"
VERSION = 1
_PARTS = ("indices", "old", "new")


def write(path: str | PathLike[str], description: dict[str, Any], edits: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write a receipt.

    Args:
        path: The file; overwritten if it exists.
        description: Plain data.
        edits: Tensors by part, by parameter.
    """
    tensors = {f"{name}/{part}": t.detach().cpu().contiguous() for name, e in edits.items() for part, t in e.items()}
    text = json.dumps(description, sort_keys=True)
    header = {"format": FORMAT, "version": str(VERSION), "receipt": text, "sha256": _checksum(text, tensors)}
    save_file(tensors, path, metadata=header)


def read(path: str | PathLike[str]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Read a receipt and check its format, version, checksum, and that every part is of the right kind.

    Args:
        path: The file.

    Returns:
        The description and the tensors by part, by parameter.

    Raises:
        ValueError: The file is truncated, changed, foreign or of a newer version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            _check_header(header)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(f"not a complete safetensors file ({error})") from error
    if header["sha256"] != _checksum(header["receipt"], tensors):
        raise ValueError("it was changed after it was written, its checksum does not match")
    edits: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition("/")
        if part not in _PARTS:
            raise ValueError(f"it holds an unknown tensor {key!r}")
        edits.setdefault(name, {})[part] = tensor
    for name, parts in edits.items():
        if "new" not in parts:
            raise ValueError(f"it lacks the tensor '{name}/new'")
    description = _description(header["receipt"])
    if description["shapes"].keys() != edits.keys():
        raise ValueError("the header and the tensors name different parameters")
    return description, edits


def _check_header(header: Mapping[str, str]) -> None:
    if header.get("format") != FORMAT:
        raise ValueError(f"the header's `format` must be {FORMAT!r}, got {header.get('format')!r}")
    version = header.get("version", "")
    if not (version.isascii() and version.isdecimal()) or not version.strip("0") or len(version) > 9:
        raise ValueError(f"the header's `version` must be a positive number, got {version!r}")
    if int(version) > VERSION:
        raise ValueError(f"its version is {version} and this fastforget knows {VERSION}: update fastforget")
    if missing := {"receipt", "sha256"} - header.keys():
        raise ValueError(f"the header lacks {sorted(missing)}")


def _description(text: str) -> dict[str, Any]:
    """Read the description; a checksum that anybody can compute does not make it trustworthy."""
    try:
        description = json.loads(text)
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict):
        raise ValueError("the header's `receipt` must be a JSON object")  # noqa: TRY004 - the file is at fault
    if description.keys() != _FIELDS.keys():
        raise ValueError(f"the header's `receipt` must have the fields {sorted(_FIELDS)}, got {sorted(description)}")
    for name, (kind, right) in _FIELDS.items():
        if not right(description[name]):
            raise ValueError(f"the header's `{name}` must be {kind}, got {description[name]!r}")
    return description


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _list_of(right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(right, value))


def _object_of(right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(map(right, value.values()))


_FIELDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "after": ("a text", _is_text),
    "alpha": ("a number", _is_number),
    "before": ("a text", _is_text),
    "classes": ("a list of classes", _list_of(_is_count)),
    "created": ("a text", _is_text),
    "evidence": ("an object of numbers", _object_of(_is_number)),
    "rule": ("a text", _is_text),
    "seconds": ("an object of numbers", _object_of(_is_number)),
    "settings": ("an object of numbers", _object_of(_is_number)),
    "shapes": ("an object of shapes", _object_of(_list_of(_is_count))),
    "total": ("a count", _is_count),
}


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
