"""Functions that a configuration names, with their settings checked against what they take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from fastforget.classifier.named_functions import import_named
from fastforget.comparison.nearest import did_you_mean

__all__ = ["GIVEN", "ONLY_GIVEN", "Function", "find_function", "name_of"]

GIVEN = ("seed", "unseen", "codes")  # what functions get that have parameters of these names
ONLY_GIVEN = (*GIVEN[1:], "everything")  # these are data, which no setting can hold


@dataclass(frozen=True, eq=False)
class Function:
    """A function with its settings.

    Attributes:
        name: What tells it from others.
        call: The function.
        settings: By name.
        takes: Which of `GIVEN` it takes.
    """

    name: str
    call: Callable[..., Any]
    settings: Mapping[str, Any]
    takes: frozenset[str]

    @classmethod
    def of(cls, call: Callable[..., Any], key: str, settings: Mapping[str, Any], first: int) -> Function:
        """Check settings against the signature of a function.

        Args:
            call: The function.
            key: Of the configuration, for errors.
            settings: By name.
            first: How many arguments come before the settings.

        Returns:
            The function with its settings.

        Raises:
            TypeError: It cannot be called with so many arguments.
            ValueError: It does not take a setting, or lacks one.
        """
        name = name_of(call)
        try:
            parameters = list(inspect.signature(call).parameters.values())
        except ValueError:  # functions that are not written in Python may have no signature
            return cls(name, call, settings, frozenset())
        rest = [p for p in parameters[first:] if p.kind in {p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD}]
        known = [p.name for p in rest if p.name not in ONLY_GIVEN]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            for setting in settings:
                if setting not in known:
                    raise ValueError(
                        f"`{key}` must have settings of {name}, which are {', '.join(known) or 'none'}, got {setting!r}"
                        + did_you_mean(setting, known)
                    )
        needed = [p.name for p in rest if p.default is p.empty and p.name not in GIVEN]
        for setting in needed:
            if setting not in settings:
                raise ValueError(f"`{key}` must have `{setting}`, which {name} needs, got none")
        takes = frozenset(p.name for p in rest if p.name in GIVEN and p.name not in settings)
        try:
            inspect.signature(call).bind(*[None] * first, **settings, **dict.fromkeys(takes))
        except TypeError as error:
            raise TypeError(
                f"`{key}` must name a function of {first} arguments and settings, got {name}: {error}"
            ) from error
        return cls(name, call, settings, takes)

    def is_taken_for(self, other: Function) -> bool:
        """Return whether this is another function of the same name, as two lambdas are."""
        return self.name == other.name and self.call is not other.call and not isinstance(self.call, partial)

    def __call__(self, *arguments: Any, given: Mapping[str, Any]) -> Any:
        """Call it with its settings, and with those of `GIVEN` that it takes."""
        return self.call(*arguments, **self.settings, **{name: given[name] for name in self.takes})


def find_function(value: Any, key: str, folder: Path) -> Callable[..., Any]:
    """Return a function that is given, or named as "package.module:function".

    Args:
        value: What the configuration holds.
        key: Of the configuration, for errors.
        folder: Where modules are looked for first.

    Returns:
        The function.

    Raises:
        ImportError: There is no such function.
        TypeError: It is something else.
    """
    found = import_named(value, key, folder) if isinstance(value, str) else value
    if isinstance(found, nn.Module) or not callable(found):
        raise TypeError(f"`{key}` must name a function, got {value!r}, a {type(found).__name__}")
    function: Callable[..., Any] = found
    return function


def name_of(function: Any) -> str:
    """Return what tells a function from others: its module and name; of a partial one its arguments as well."""
    if isinstance(function, partial):
        words = [*map(repr, function.args), *(f"{key}={value!r}" for key, value in sorted(function.keywords.items()))]
        return f"{name_of(function.func)}({', '.join(words)})"
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}:{kind.__qualname__}"
