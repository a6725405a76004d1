"""Safetensors with a versioned header and a checksum: what the formats of this package share.

Header: `format` "fastforget.<kind>"; `version`; `<kind>`, a description as JSON; `sha256` of the description and of all
tensors; where it is signed, `public_key` and the `signature` of that checksum. A file appears whole or not at all, see
`fastforget.files.durable`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastforget.files.durable import whole_files
from fastforget.files.signatures import check_signature, signature_of

if TYPE_CHECKING:
    from fastforget.files.signing import PublicKey, SigningKey

__all__ = ["check_header", "checksum", "opened", "read", "remedy", "save", "write"]


def write(
    path: str | PathLike[str],
    kind: str,
    version: int,
    description: dict[str, Any],
    tensors: Mapping[str, Tensor],
    key: SigningKey | None = None,
) -> None:
    """Write a file.

    Args:
        path: The file; overwritten if it exists.
        kind: What it is.
        version: Of the format.
        description: Plain data.
        tensors: The tensors by name.
        key: Signs it; None for nobody.

    Raises:
        OSError: It cannot be written, for instance for want of space; what was there before still is.
    """
    contents = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(description, sort_keys=True)
    digest = checksum(text, contents)
    header = {"format": f"fastforget.{kind}", "version": str(version), kind: text, "sha256": digest}
    save(path, contents, header | signature_of(kind, digest, key))


def read(
    path: str | PathLike[str], kind: str, version: int, signed_by: PublicKey | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file and check its format, version and checksum, and its signature if it has one.

    Args:
        path: The file.
        kind: What it must be.
        version: The newest known one.
        signed_by: Who must have signed it; None for anybody or nobody.

    Returns:
        The description and the tensors by name; these are copies, so that the file may be written to afterwards.

    Raises:
        ModuleNotFoundError: It is signed, and the extra ``signing`` is not installed.
        ValueError: The file is truncated, changed, foreign, of a newer version, or not signed by the key.
    """
    with opened(path) as file:
        header = file.metadata() or {}
        check_header(header, kind, version, {kind, "sha256"})
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 - not a dict
    if header["sha256"] != checksum(header[kind], tensors):
        raise ValueError("it was changed after it was written, its checksum does not match")
    check_signature(kind, header["sha256"], header, signed_by)
    try:
        description = json.loads(header[kind])
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict):
        raise ValueError(f"the header's `{kind}` must be a JSON object")  # noqa: TRY004 - the file is at fault
    return description, tensors


def save(path: str | PathLike[str], tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file that appears whole or not at all.

    Args:
        path: The file; overwritten if it exists.
        tensors: By name, on the CPU, contiguous, none of them in the memory of another.
        header: The metadata.

    Raises:
        OSError: It cannot be written, for instance for want of space; what was there before still is.
    """
    try:
        with whole_files(path) as (draft,):
            save_file(tensors, draft, metadata=header)
    except SafetensorError as error:
        raise OSError(f"`{path}` cannot be written: {error}") from error


@contextmanager
def opened(path: str | PathLike[str]) -> Iterator[Any]:
    """Open a safetensors file.

    Args:
        path: The file.

    Yields:
        What `safetensors.safe_open` gives.

    Raises:
        ValueError: It is no such file, or not all of one.
    """
    with Path(path).open("rb"):  # the operating system's own error for a missing or unreadable file
        pass
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"not a complete safetensors file ({error}){remedy(path)}") from error


def remedy(path: str | PathLike[str]) -> str:
    """Return what to do with a file that begins as those of ``torch.save`` do: as a zip, or in old versions a pickle.

    Args:
        path: The file, which is not of safetensors.

    Returns:
        The end of a sentence; empty for other files.
    """
    with Path(path).open("rb") as file:
        if not file.read(4).startswith((b"PK", b"\x80\x02")):
            return ""
    name = Path(path).name
    return (
        "; it seems to be of torch.save, which can hold code and is not read. Convert with "
        f'safetensors.torch.save_file(torch.load("{name}", weights_only=True), "{Path(name).stem}.safetensors")'
    )


def check_header(header: Mapping[str, str], kind: str, newest: int, keys: Collection[str]) -> None:
    """Check that a header is of a kind of file in a known version.

    Args:
        header: What was read.
        kind: What the file must be.
        newest: The newest known version.
        keys: What the header must hold beside `format` and `version`.

    Raises:
        ValueError: The file is foreign, of a newer version, or its header lacks something.
    """
    if header.get("format") != f"fastforget.{kind}":
        raise ValueError(f"the header's `format` must be 'fastforget.{kind}', got {header.get('format')!r}")
    version = header.get("version", "")
    if not (version.isascii() and version.isdecimal()) or not version.strip("0") or len(version) > 9:
        raise ValueError(f"the header's `version` must be a positive number, got {version!r}")
    if int(version) > newest:
        raise ValueError(f"its version is {version} and this fastforget knows {newest}: update fastforget")
    if missing := set(keys) - header.keys():
        raise ValueError(f"the header lacks {sorted(missing)}")


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a description and of tensors with their names, dtypes and shapes."""
    digest = hashlib.sha256(text.encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
