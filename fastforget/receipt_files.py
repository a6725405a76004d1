"""The file format of receipts: safetensors with a versioned header and a checksum over everything.

Header: `format` "fastforget.receipt"; `version` "1"; `receipt`, the description as JSON; `sha256` of the
description and of all tensors. Tensors: "<parameter>/indices", "<parameter>/old", "<parameter>/new".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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
    """Read a receipt and check its format, version and checksum.

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
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(f"`{path}` is not a safetensors file, or a damaged one: {error}") from error
    if header.get("format") != FORMAT:
        raise ValueError(f"`{path}` must have format {FORMAT!r}, got {header.get('format')!r}")
    version = header.get("version", "")
    if not version.isdecimal() or int(version) > VERSION:
        raise ValueError(f"`{path}` must have version {VERSION} or older, got {version!r}: update fastforget")
    text = header.get("receipt", "")
    if header.get("sha256") != _checksum(text, tensors):
        raise ValueError(f"`{path}` was changed after it was written: its checksum does not match")
    edits: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition("/")
        if part not in _PARTS:
            raise ValueError(f"`{path}` holds an unknown tensor {key!r}")
        edits.setdefault(name, {})[part] = tensor
    description = json.loads(text)
    if not isinstance(description, dict):
        raise ValueError(f"`{path}` must describe the receipt as an object")
    return description, edits


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
