"""Strategies for damaged files: what disks, transfers and ill will make of good ones."""

import json
import re
from collections.abc import Callable, Mapping

import torch
from fuzz.draws import Draw
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from fastforget.files.checked import checksum

Content = bytes
Folder = Mapping[str, Content]  # files by their paths

DEEP = 100_000
# A value, a name, or a bracket, in JSON as in TOML; and what parsers fear in its place.
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null|[][{}]')
FEARED = (
    *(b"null", b"true", b"{}", b"[]", b'""', b"[[]]", b'{"": 0}', b"-1", b"0", b"1.5", b"-0.0", b"NaN", b"Infinity"),
    *(b"1e999", b"-1e999", b"2147483648", b"9223372036854775807", b"18446744073709551616", b"1" * 5000),
    *(b'"\\ud800"', b'"\\u0000"', b'"../../outside"', b'"\xff"', b'"%s%n{0}"', b'"' + b"long" * 20_000 + b'"'),
    *(b"[" * DEEP, b'{"":' * DEEP, b"[" * DEEP + b"]" * DEEP, b"a=" + b"[" * DEEP),
)
# Sizes as binary formats hold them.
SIZES = tuple(
    number.to_bytes(width, order)
    for width in (4, 8)
    for order in ("little", "big")
    for number in (0, 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1)
)

DTYPES = ("bool", "uint8", "int32", "int64", "float16", "bfloat16", "float64", "float8_e4m3fn", "uint16", "complex64")


def _place(draw: Draw, content: Content) -> int:
    return draw(st.integers(0, len(content)))


def _cut(draw: Draw, content: Content) -> Content:
    return content[: _place(draw, content)]


def _flipped(draw: Draw, content: Content) -> Content:
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 8)) if content else 0):
        changed[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def _without_part(draw: Draw, content: Content) -> Content:
    start, end = sorted((_place(draw, content), _place(draw, content)))
    return content[:start] + content[end:]


def _repeated(draw: Draw, content: Content) -> Content:
    start, end = sorted((_place(draw, content), _place(draw, content)))
    return content[:start] + content[start:end] * draw(st.integers(2, 4)) + content[end:]


def _with_more(draw: Draw, content: Content) -> Content:
    place = _place(draw, content)
    return content[:place] + draw(st.binary(max_size=64)) + content[place:]


def _with_size(draw: Draw, content: Content) -> Content:
    size = draw(st.sampled_from(SIZES))
    place = draw(st.sampled_from([0, 4, 8]) | st.integers(0, len(content)))
    return content[:place] + size + content[place + len(size) :]


def _with_token(draw: Draw, content: Content) -> Content:
    tokens = list(TOKEN.finditer(content[:100_000]))
    if not tokens:
        return content
    token = draw(st.sampled_from(tokens))
    other = draw(st.sampled_from([*FEARED, *(found.group() for found in tokens[:50])]))
    return content[: token.start()] + other + content[token.end() :]


_DAMAGES: tuple[Callable[[Draw, Content], Content], ...] = (
    *(_cut, _flipped, _without_part, _repeated, _with_more, _with_size),
    *(_with_token, _with_token, _with_token),
)


@st.composite
def damaged(draw: Draw, content: Content) -> Content:
    """Draw what became of a file: one to three times damaged."""
    for _ in range(draw(st.integers(1, 3))):
        content = draw(st.sampled_from(_DAMAGES))(draw, content)
    return content


@st.composite
def forged(draw: Draw, content: Content) -> Content:
    """Draw a safetensors file that somebody made: whole, its checksum fits, and what it says does not."""
    tensors, header = load(content), _metadata(content)
    kind = header["format"].removeprefix("fastforget.") if "format" in header else ""
    if tensors and draw(st.booleans()):
        name = draw(st.sampled_from(sorted(tensors)))
        tensors |= draw(st.sampled_from(_FORGERIES))(draw, name, tensors.pop(name))
    if header and draw(st.booleans()):
        # most often what is said of the contents
        key = kind if kind in header and draw(st.integers(0, 3)) else draw(st.sampled_from(sorted(header)))
        header[key] = _with_token(draw, header[key].encode()).decode(errors="replace")
    if "sha256" in header and kind in header:
        header["sha256"] = checksum(header[kind], tensors)
    return save(tensors, header)


def _metadata(content: Content) -> dict[str, str]:
    size = int.from_bytes(content[:8], "little")
    return dict(json.loads(content[8 : 8 + size]).get("__metadata__", {}))


def _renamed(draw: Draw, name: str, tensor: Tensor) -> dict[str, Tensor]:
    return {draw(st.sampled_from(["", "/", "new", "x/new", f"{name}/new", name.upper(), "\0", "é" * 300])): tensor}


def _dropped(_draw: Draw, _name: str, _tensor: Tensor) -> dict[str, Tensor]:
    return {}


def _reshaped(draw: Draw, name: str, tensor: Tensor) -> dict[str, Tensor]:
    flat = tensor.reshape(-1)
    shapes = [flat, flat[:0], flat[:1], flat.reshape(1, -1), flat[:1].reshape(()), flat.reshape(*[1] * 40, -1)]
    return {name: draw(st.sampled_from(shapes)).contiguous()}


def _converted(draw: Draw, name: str, tensor: Tensor) -> dict[str, Tensor]:
    kinds = [
        "bool",
        "uint8",
        "int32",
        "int64",
        "float16",
        "bfloat16",
        "float64",
        "float8_e4m3fn",
        "uint16",
        "complex64",
    ]
    return {name: tensor.to(getattr(torch, draw(st.sampled_from(kinds))))}


def _with_values(draw: Draw, name: str, tensor: Tensor) -> dict[str, Tensor]:
    values = [float("nan"), float("inf"), 1e30, -1.0] if tensor.is_floating_point() else [-1, 2, 100]
    changed = tensor.clone()
    changed.reshape(-1)[: draw(st.integers(1, 3))] = draw(st.sampled_from(values))
    return {name: changed}


_FORGERIES = (_renamed, _dropped, _reshaped, _converted, _with_values)
