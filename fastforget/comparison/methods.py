"""The methods of a comparison: found by their names, with their settings checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fastforget import baselines
from fastforget.baselines.editing import check_settings
from fastforget.class_forgetting.settings import NaturalSettings, PaperSettings
from fastforget.comparison import our_methods
from fastforget.comparison.functions import ONLY_GIVEN, Function, find_function
from fastforget.comparison.nearest import did_you_mean
from fastforget.sample_forgetting.settings import Settings

__all__ = ["REFERENCES", "Method", "known_methods", "read_methods"]

REFERENCES = ("original", "retrained")  # rows of each comparison, beside those of methods
_DATA = 3  # model, forget, remain


@dataclass(frozen=True, eq=False)
class Method:
    """A method of a comparison.

    Attributes:
        name: What tables call it.
        function: The function with its settings.
    """

    name: str
    function: Function


def known_methods() -> dict[str, Callable[..., Any]]:
    """Return the methods that need no module to be named: the baselines and ours."""
    published = {name: getattr(baselines, name) for name in baselines.__all__ if name != "retrain"}
    return {**published, **{name: getattr(our_methods, name) for name in our_methods.__all__}}


def read_methods(
    tables: Sequence[Mapping[str, Any]], folder: Path, *, whole_classes: bool, has_unseen: bool
) -> tuple[Method, ...]:
    """Read the tables ``methods``.

    Args:
        tables: The tables.
        folder: Where modules are looked for first.
        whole_classes: Whether classes are forgotten of which nothing remains.
        has_unseen: Whether there are samples that no network is trained on.

    Returns:
        The methods, in order.

    Raises:
        ImportError: A function cannot be found.
        TypeError: It is no function, or a setting has the wrong type.
        ValueError: There is no such method, it does not take a setting, a setting has a wrong value, or two methods
            have the same name.
    """
    found: dict[str, Method] = {}
    for place, table in enumerate(tables):
        key = f"methods[{place}]"
        settings = {name: value for name, value in table.items() if name not in {"method", "name"}}
        function = Function.of(_find(table["method"], f"{key}.method", folder), key, settings, _DATA)
        _check_values(function, key)
        _check_use(function, key, whole_classes=whole_classes, has_unseen=has_unseen)
        name = table.get("name") or _called(table["method"])
        if name in found or name.startswith(REFERENCES):
            raise ValueError(f"`{key}` must have a `name` of its own, got {name!r}")
        if any(function.is_taken_for(other.function) for other in found.values()):
            raise ValueError(f"`{key}` must name a function that others are told from, got a second {function.name}")
        found[name] = Method(name, function)
    return tuple(found.values())


def _find(value: Any, key: str, folder: Path) -> Callable[..., Any]:
    known = known_methods()
    if not isinstance(value, str) or all(value.partition(":")):
        return find_function(value, key, folder)
    if value in known:
        return known[value]
    if value == "retrain":
        raise ValueError(f"`{key}` must be another method, got 'retrain': `oracles` says how many are trained again")
    raise ValueError(
        f"`{key}` must be 'package.module:function' or one of {', '.join(known)}, got {value!r}"
        + did_you_mean(value, known)
    )


def _called(value: Any) -> str:
    return value.rpartition(":")[2] if isinstance(value, str) else str(getattr(value, "__name__", type(value).__name__))


def _check_values(function: Function, key: str) -> None:
    """Have the values of settings checked that the library knows, before anything is trained."""
    if function.call not in known_methods().values():
        return
    settings = {
        name: function.settings.get(name, parameter.default)
        for name, parameter in inspect.signature(function.call).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    try:
        if function.call is our_methods.one_shot:
            for kind in (NaturalSettings, PaperSettings):
                kind(**{field.name: settings[field.name] for field in fields(kind)})
        elif function.call is our_methods.learn_to_unlearn:
            Settings(**{field.name: settings[field.name] for field in fields(Settings)})
        else:
            check_settings({name: value for name, value in settings.items() if name not in ONLY_GIVEN})
    except (TypeError, ValueError) as error:
        raise type(error)(f"`{key}`, {function.call.__name__}: {error}") from error


def _check_use(function: Function, key: str, *, whole_classes: bool, has_unseen: bool) -> None:
    if function.call is our_methods.one_shot and not whole_classes:
        raise ValueError(f"`{key}` must be a method for samples, got one_shot, which forgets whole classes")
    if function.settings.get("membership") and not has_unseen and function.call is our_methods.learn_to_unlearn:
        raise ValueError(f"`{key}` has `membership`, which needs samples in `data.unseen`, got none")
