"""The configuration of a comparison: its keys, and what each of them may hold."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from os import PathLike
from pathlib import Path
from reprlib import repr as short
from typing import Any, TypeAlias

from fastforget.comparison.nearest import did_you_mean
from fastforget.files.fields import Predicate, is_count, is_text, list_of

__all__ = ["Table", "check_config", "read_config"]

Table: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Key:
    """What a key may hold.

    Attributes:
        what: It, in words.
        accepts: Whether a value is that.
        needed: Whether the key must be there.
    """

    what: str
    accepts: Predicate
    needed: bool = False


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(is_text, value))


def _anything(value: object) -> bool:
    return value is not None


def _is_function(value: object) -> bool:
    return callable(value) or (isinstance(value, str) and all(value.partition(":")))


def _are_different(accepts: Predicate) -> Predicate:
    def check(value: object) -> bool:
        return list_of(accepts)(value) and isinstance(value, list) and 0 < len(value) == len(set(value))

    return check


def _is_share(value: object) -> bool:
    return isinstance(value, float) and 0 < value < 1


_FUNCTION = "a function, as text 'package.module:function'"
_SAMPLES = "samples: a file .npz or .safetensors, or 'package.module:function', which returns them"

KEYS: Mapping[str, Mapping[str, Key]] = {
    "": {
        "seeds": Key("different integers of at least 0, as a list", _are_different(is_count), needed=True),
        "model": Key("a table", _is_table, needed=True),
        "training": Key("a table", _is_table),
        "data": Key("a table", _is_table, needed=True),
        "forget": Key("a table", _is_table, needed=True),
        "methods": Key("a list of tables", lambda v: list_of(_is_table)(v) and bool(v), needed=True),
        "oracles": Key("an integer of at least 0", is_count),
        "output": Key("a folder, as text", is_text),
        "measures": Key("different names of measures, as a list", _are_different(is_text)),
        "audit": Key("a table", _is_table),
    },
    "model": {
        "make": Key(f"{_FUNCTION}, which makes the network", _is_function, needed=True),
        "checkpoint": Key("a file .safetensors, as text; {seed} in it stands for the seed", is_text),
        "retrained": Key(
            "different files .safetensors, as a list; {seed} in them stands for the seed", _are_different(is_text)
        ),
    },
    "training": {"function": Key(f"{_FUNCTION}, which trains a network", _is_function)},
    "data": {
        "train": Key(_SAMPLES, _anything, needed=True),
        "test": Key(_SAMPLES, _anything, needed=True),
        "unseen": Key(_SAMPLES, _anything),
        "codes": Key("a file of mnemonic codes, as text", is_text),
    },
    "forget": {
        "classes": Key("different classes, as a list", _are_different(is_count)),
        "samples": Key("different places in `data.train`, as a list", _are_different(is_count)),
        "share": Key("a number between 0 and 1", _is_share),
    },
    "methods": {
        "method": Key("the name of a method, or 'package.module:function'", _anything, needed=True),
        "name": Key("a text", is_text),
    },
    "audit": {
        "relearning_steps": Key("an integer of at least 0", is_count),
        "samples": Key("an integer of at least 1", lambda v: is_count(v) and bool(v)),
    },
}
_WITH_SETTINGS = ("training", "methods")  # tables whose other keys are settings of a function


def read_config(source: str | PathLike[str] | Table) -> tuple[Table, Path]:
    """Read a configuration and check its keys.

    Args:
        source: A TOML file, or what such a file holds.

    Returns:
        The configuration, and the folder that files in it are relative to.

    Raises:
        OSError: There is no such file.
        TypeError: It is neither.
        ValueError: It is no TOML, or a key is unknown, missing, or holds something else.
        ModuleNotFoundError: Python 3.10 lacks tomli.
    """
    if isinstance(source, Mapping):
        config, folder = source, Path.cwd()
    elif isinstance(source, (str, PathLike)):
        path = Path(source)
        config, folder = _parse(path), path.resolve().parent
    else:
        raise TypeError(f"`config` must be a file or a mapping, got {type(source).__name__}")
    check_config(config)
    return config, folder


def _parse(path: Path) -> dict[str, Any]:
    text = path.read_bytes()
    loads = _toml_reader()
    try:
        return loads(text.decode())
    except (ValueError, RecursionError) as error:  # of UTF-8 as well; or nested too deep
        raise ValueError(f"`{path}` must be TOML: {error}") from error


def _toml_reader() -> Callable[[str], dict[str, Any]]:
    try:
        reader = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("TOML files in Python 3.10 need tomli: pip install tomli") from error
    loads: Callable[[str], dict[str, Any]] = reader.loads
    return loads


def check_config(config: Table) -> None:
    """Check the keys of a configuration, and that those that exclude each other are not given together.

    Args:
        config: The configuration.

    Raises:
        ValueError: A key is unknown, missing, or holds something else.
    """
    _check_table("", config)
    for kind in ("model", "training", "data", "forget", "audit"):
        _check_table(kind, config.get(kind, {}), kind)
    for place, method in enumerate(config["methods"]):
        _check_table("methods", method, f"methods[{place}]")
    if len(config["forget"]) != 1:
        kinds, given = (", ".join(names) for names in (KEYS["forget"], config["forget"]))
        raise ValueError(f"`forget` must have one of the keys {kinds}, got {given or 'none'}")


def _check_table(kind: str, table: Table, where: str = "") -> None:
    title, keys = f"`{where}`" if where else "the configuration", KEYS[kind]
    for name, key in keys.items():
        if name not in table and key.needed:
            raise ValueError(f"{title} must have `{name}`: {key.what}, got {', '.join(table) or 'nothing'}")
    for name, value in table.items():
        full = f"{where}.{name}" if where else name
        if name in keys and not keys[name].accepts(value):
            raise ValueError(f"`{full}` must be {keys[name].what}, got {short(value)}")
        if name not in keys and kind not in _WITH_SETTINGS:
            hint = did_you_mean(name, keys) or _elsewhere(name)
            raise ValueError(f"{title} must have no other keys than {', '.join(keys)}, got {name!r}{hint}")
        if name not in keys and not _is_setting(value):
            raise ValueError(f"`{full}` must be a number, a text, true, false or a list of them, got {short(value)}")


def _elsewhere(name: str) -> str:
    """Say in which other table a key belongs."""
    homes = [kind for kind, keys in KEYS.items() if kind and name in keys]
    return f"; it belongs to `{homes[0]}`" if homes else ""


def _is_setting(value: object) -> bool:
    plain = (str, int, float, bool)
    return isinstance(value, plain) or list_of(lambda item: isinstance(item, plain))(value)
