"""The file format of receipts, see `fastforget.files.checked`.

The description holds the attributes of a `Receipt`, and the shapes of what it changed. Version 1 had no `forgotten`,
`codes` and `versions`. Tensors: "<parameter>/indices",
"<parameter>/old", "<parameter>/new".
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fastforget.files import checked
from fastforget.files.fields import Fields, check_fields, is_count, is_number, is_text, list_of, object_of

if TYPE_CHECKING:
    from fastforget.files.signing import PublicKey, SigningKey

__all__ = ["read", "write"]

VERSION = 2
_ADDED: dict[str, Any] = {"codes": "", "forgotten": [], "versions": {}}  # what files of version 1 do not say
_PARTS = ("indices", "old", "new")


def write(
    path: str | PathLike[str],
    description: dict[str, Any],
    edits: Mapping[str, Mapping[str, Tensor]],
    key: SigningKey | None = None,
) -> None:
    """Write a receipt.

    Args:
        path: The file; overwritten if it exists.
        description: Plain data.
        edits: Tensors by part, by parameter.
        key: Signs it; None for nobody.
    """
    tensors = {f"{name}/{part}": tensor for name, parts in edits.items() for part, tensor in parts.items()}
    checked.write(path, "receipt", VERSION, description, tensors, key)


def read(
    path: str | PathLike[str], signed_by: PublicKey | None = None
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Read a receipt and check its format, version, checksum, and that every part is of the right kind.

    Args:
        path: The file.
        signed_by: Who must have signed it; None for anybody or nobody.

    Returns:
        The description and the tensors by part, by parameter.

    Raises:
        ModuleNotFoundError: It is signed, and the extra ``signing`` is not installed.
        ValueError: The file is truncated, changed, foreign, of a newer version, or not signed by the key.
    """
    description, tensors = checked.read(path, "receipt", VERSION, signed_by)
    description = {**_ADDED, **description}
    edits: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition("/")
        if part not in _PARTS:
            raise ValueError(f"it holds an unknown tensor {key!r}")
        edits.setdefault(name, {})[part] = tensor
    for name, parts in edits.items():
        if "new" not in parts:
            raise ValueError(f"it lacks the tensor '{name}/new'")
    check_fields("receipt", description, _FIELDS)
    if description["shapes"].keys() != edits.keys():
        raise ValueError("the header and the tensors name different parameters")
    return description, edits


_FIELDS: Fields = {
    "after": ("a text", is_text),
    "alpha": ("a number", is_number),
    "before": ("a text", is_text),
    "classes": ("a list of classes", list_of(is_count)),
    "codes": ("a text", is_text),
    "created": ("a text", is_text),
    "evidence": ("an object of numbers", object_of(is_number)),
    "forgotten": ("a list of classes", list_of(is_count)),
    "kept_fisher": ("true or false", lambda value: isinstance(value, bool)),
    "rule": ("a text", is_text),
    "seconds": ("an object of numbers", object_of(is_number)),
    "settings": ("an object of numbers and texts", object_of(lambda value: is_number(value) or is_text(value))),
    "shapes": ("an object of shapes", object_of(list_of(is_count))),
    "total": ("a count", is_count),
    "versions": ("an object of texts", object_of(is_text)),
}
