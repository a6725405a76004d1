"""The file format of mnemonic codes: safetensors with a versioned header.

Header: `format` "fastforget.codes"; `version` "1"; `layout` "tensor", "tuple" or "dict"; `names` a JSON list, the
tensors' names in order; `distribution`; `seed`, a decimal number or empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from os import PathLike

from torch import Tensor

from fastforget.files.checked import check_header, opened, save

__all__ = ["read", "write"]

VERSION = 1
_KIND = "codes"
_KEYS = frozenset({"layout", "names", "distribution", "seed"})


def write(
    path: str | PathLike[str], tensors: Mapping[str, Tensor], layout: str, distribution: str, seed: int | None
) -> None:
    """Write codes.

    Args:
        path: The file; overwritten if it exists.
        tensors: The codes by name, in order, each [C, M, *shape].
        layout: "tensor", "tuple" or "dict": what they are in memory.
        distribution: What they were drawn from.
        seed: What they were drawn with, if they were drawn.

    Raises:
        OSError: It cannot be written, for instance for want of space; what was there before still is.
    """
    header = {
        "format": f"fastforget.{_KIND}",
        "version": str(VERSION),
        "layout": layout,
        "names": json.dumps(list(tensors)),
        "distribution": distribution,
        "seed": "" if seed is None else str(seed),
    }
    # The format refuses views, tensors that share memory and foreign devices: write private copies.
    copies = {name: leaf.detach().cpu().clone().contiguous() for name, leaf in tensors.items()}
    save(path, copies, header)


def read(path: str | PathLike[str]) -> tuple[dict[str, Tensor], str, str, int | None]:
    """Read codes, and check everything that the header says.

    Args:
        path: The file.

    Returns:
        The codes by name, in order; their layout, distribution and seed.

    Raises:
        ValueError: The file is not a complete file of this format in a known version.
    """
    with opened(path) as file:
        header = file.metadata() or {}
        check_header(header, _KIND, VERSION, _KEYS)
        names = _tensor_names(header, file.keys())
        # copies, which start where tensors do: products of those in the file differ in the last bit otherwise
        tensors = {name: file.get_tensor(name).clone() for name in names}
    return tensors, header["layout"], header["distribution"], int(header["seed"]) if header["seed"] else None


def _tensor_names(header: dict[str, str], stored: Iterable[str]) -> list[str]:
    """Return the tensors' names in order, once what the header says of the codes is known to be good."""
    if header["layout"] not in {"tensor", "tuple", "dict"}:
        raise ValueError(f"the header's `layout` must be tensor, tuple or dict, got {header['layout']!r}")
    if header["seed"] and not header["seed"].isdecimal():
        raise ValueError(f"the header's `seed` must be a number or empty, got {header['seed']!r}")
    return _check_names(header["names"], header["layout"], stored)


def _check_names(text: str, layout: str, stored: Iterable[str]) -> list[str]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"the header's `names` must be a JSON list of names, got {text!r}")
    if sorted(names) != sorted(stored):
        raise ValueError(f"the header names the tensors {sorted(names)}, the file holds {sorted(stored)}")
    if layout == "tensor" and len(names) != 1:
        raise ValueError(f"the layout tensor means one tensor, got {len(names)}")
    return names
