"""The file format of mnemonic codes: safetensors with a versioned header.

Header: `format` "fastforget.codes"; `version` "1"; `layout` "tensor", "tuple" or "dict"; `names` a JSON list, the
tensors' names in order; `distribution`; `seed`, a decimal number or empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastforget.structure import Inputs, leaves

FORMAT = "fastforget.codes"
VERSION = 1

_KEYS = frozenset({"format", "version", "layout", "names", "distribution", "seed"})


def write(path: str | PathLike[str], stacked: Inputs, distribution: str, seed: int | None) -> None:
    """Writes codes.

    Args:
        path: The file; overwritten if it exists.
        stacked: The codes, leaves [C, M, *shape].
        distribution: What they were drawn from.
        seed: What they were drawn with, if they were drawn.
    """
    layout = "tensor" if isinstance(stacked, Tensor) else "dict" if isinstance(stacked, dict) else "tuple"
    tensors = leaves(stacked)
    names = list(stacked) if isinstance(stacked, dict) else [str(position) for position in range(len(tensors))]
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "layout": layout,
        "names": json.dumps(names),
        "distribution": distribution,
        "seed": "" if seed is None else str(seed),
    }
    # The format refuses views, tensors that share memory and foreign devices: write private copies.
    copies = {name: leaf.detach().cpu().clone().contiguous() for name, leaf in zip(names, tensors, strict=True)}
    save_file(copies, path, metadata=header)


def read(path: str | PathLike[str]) -> tuple[Inputs, str, int | None]:
    """Reads codes and checks everything that the header says.

    Args:
        path: The file.

    Returns:
        The codes, their distribution and their seed.

    Raises:
        ValueError: If the file is not a complete file of this format in a known version.
    """
    with Path(path).open("rb"):  # the operating system's own error for a missing or unreadable file
        pass
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            names = _check_header(header, file.keys())
            # copies, which start where tensors do: products of those in the file differ in the last bit otherwise
            tensors = [file.get_tensor(name).clone() for name in names]
    except SafetensorError as error:
        raise ValueError(f"not a complete safetensors file ({error})") from error
    stacked: Inputs = tensors[0] if header["layout"] == "tensor" else tuple(tensors)
    if header["layout"] == "dict":
        stacked = dict(zip(names, tensors, strict=True))
    return stacked, header["distribution"], int(header["seed"]) if header["seed"] else None


def _check_header(header: dict[str, str], stored: Iterable[str]) -> list[str]:
    """The tensors' names in order, once the header is known to be good."""
    if header.get("format") != FORMAT:
        raise ValueError(f"the header's `format` must be {FORMAT!r}, got {header.get('format')!r}")
    version = header.get("version", "")
    if not version.isdecimal() or int(version) < 1:
        raise ValueError(f"the header's `version` must be a positive number, got {version!r}")
    if int(version) > VERSION:
        raise ValueError(f"its version is {version} and this fastforget knows {VERSION}: update fastforget")
    if missing := _KEYS - header.keys():
        raise ValueError(f"the header lacks {sorted(missing)}")
    if header["layout"] not in {"tensor", "tuple", "dict"}:
        raise ValueError(f"the header's `layout` must be tensor, tuple or dict, got {header['layout']!r}")
    if header["seed"] and not header["seed"].isdecimal():
        raise ValueError(f"the header's `seed` must be a number or empty, got {header['seed']!r}")
    return _check_names(header["names"], header["layout"], stored)


def _check_names(text: str, layout: str, stored: Iterable[str]) -> list[str]:
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"the header's `names` must be a JSON list of names, got {text!r}")
    if sorted(names) != sorted(stored):
        raise ValueError(f"the header names the tensors {sorted(names)}, the file holds {sorted(stored)}")
    if layout == "tensor" and len(names) != 1:
        raise ValueError(f"the layout tensor means one tensor, got {len(names)}")
    return names
