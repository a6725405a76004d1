"""What the files of receipts and of Fisher diagonals share: safetensors with a versioned header and a checksum.

Header: `format` "fastforget.<kind>"; `version`; `<kind>`, a description as JSON; `sha256` of the description and of all
tensors. A file appears whole or not at all: it is written under another name first.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = [
    "Fields",
    "check_fields",
    "checksum",
    "is_count",
    "is_number",
    "is_text",
    "list_of",
    "object_of",
    "read",
    "write",
]

Fields = Mapping[str, tuple[str, Callable[[object], bool]]]


def write(
    path: str | PathLike[str], kind: str, version: int, description: dict[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write a file.

    Args:
        path: The file; overwritten if it exists.
        kind: What it is.
        version: Of the format.
        description: Plain data.
        tensors: The tensors by name.

    Raises:
        OSError: It cannot be written, for instance for want of space; what was there before still is.
    """
    contents = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(description, sort_keys=True)
    header = {"format": f"fastforget.{kind}", "version": str(version), kind: text, "sha256": checksum(text, contents)}
    unfinished = Path(path).with_name(f".{Path(path).name}.{secrets.token_hex(4)}")
    try:
        save_file(contents, unfinished, metadata=header)
        unfinished.replace(path)
    except SafetensorError as error:
        raise OSError(f"`{path}` cannot be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def read(path: str | PathLike[str], kind: str, version: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file and check its format, version and checksum.

    Args:
        path: The file.
        kind: What it must be.
        version: The newest known one.

    Returns:
        The description and the tensors by name.

    Raises:
        ValueError: The file is truncated, changed, foreign or of a newer version.
    """
    with Path(path).open("rb"):  # the operating system's own error for a missing or unreadable file
        pass
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            _check_header(header, kind, version)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(f"not a complete safetensors file ({error})") from error
    if header["sha256"] != checksum(header[kind], tensors):
        raise ValueError("it was changed after it was written, its checksum does not match")
    try:
        description = json.loads(header[kind])
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict):
        raise ValueError(f"the header's `{kind}` must be a JSON object")  # noqa: TRY004 - the file is at fault
    return description, tensors


def _check_header(header: Mapping[str, str], kind: str, newest: int) -> None:
    if header.get("format") != f"fastforget.{kind}":
        raise ValueError(f"the header's `format` must be 'fastforget.{kind}', got {header.get('format')!r}")
    version = header.get("version", "")
    if not (version.isascii() and version.isdecimal()) or not version.strip("0") or len(version) > 9:
        raise ValueError(f"the header's `version` must be a positive number, got {version!r}")
    if int(version) > newest:
        raise ValueError(f"its version is {version} and this fastforget knows {newest}: update fastforget")
    if missing := {kind, "sha256"} - header.keys():
        raise ValueError(f"the header lacks {sorted(missing)}")


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a description and of tensors with their names, dtypes and shapes."""
    digest = hashlib.sha256(text.encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_fields(what: str, description: Mapping[str, Any], fields: Fields) -> None:
    """Check a description; a checksum that anybody can compute does not make it trustworthy.

    Args:
        what: How to call it.
        description: What was read.
        fields: By name, what the value must be, in words and as a predicate.

    Raises:
        ValueError: A field is missing, unknown or of the wrong kind.
    """
    if description.keys() != fields.keys():
        raise ValueError(f"the header's `{what}` must have the fields {sorted(fields)}, got {sorted(description)}")
    for name, (kind, right) in fields.items():
        if not right(description[name]):
            raise ValueError(f"the header's `{name}` must be {kind}, got {description[name]!r}")


def is_count(value: object) -> bool:
    """Whether it is an integer that fits an index."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_number(value: object) -> bool:
    """Whether it is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_text(value: object) -> bool:
    """Whether it is a text."""
    return isinstance(value, str)


def list_of(right: Callable[[object], bool]) -> Callable[[object], bool]:
    """Whether it is a list of what ``right`` accepts."""
    return lambda value: isinstance(value, list) and all(map(right, value))


def object_of(right: Callable[[object], bool]) -> Callable[[object], bool]:
    """Whether it is an object whose values ``right`` accepts."""
    return lambda value: isinstance(value, dict) and all(map(right, value.values()))
