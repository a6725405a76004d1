"""What a command leaves behind: whole files, and text or JSON on standard output."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from fastforget.cli.words import in_command_words
from fastforget.errors import AccuracyLossWarning, ShallowForgettingWarning

__all__ = ["check_output_files", "plain_warnings", "print_result"]

_OURS = (AccuracyLossWarning, ShallowForgettingWarning)


def check_output_files(outputs: Mapping[str, Path | None], inputs: Iterable[Path | None], *, force: bool) -> None:
    """Check before any work that the outputs can be written, and that this loses no file.

    Args:
        outputs: The file of each option; None where the option is not given.
        inputs: The files that are read; None where an option is not given.
        force: Whether other files may be overwritten.

    Raises:
        FileExistsError: An output exists already.
        FileNotFoundError: The folder of an output does not exist.
        IsADirectoryError: An output is a folder.
        ValueError: An output is one of the inputs, or another output.
    """
    taken = {path.resolve(): "a file that is read" for path in inputs if path is not None}
    for option, path in outputs.items():
        if path is None:
            continue
        if not path.resolve().parent.is_dir():
            raise FileNotFoundError(f"`{option}` must be in a folder that exists, got {path}")
        if path.is_dir():
            raise IsADirectoryError(f"`{option}` must be a file, got the folder {path}")
        if path.resolve() in taken:
            hint = "; `--in-place` replaces the checkpoint" if option == "--output" else ""
            raise ValueError(f"`{option}` must not be {taken[path.resolve()]}, got {path}{hint}")
        if path.exists() and not force:
            raise FileExistsError(f"`{option}` must be a new file, got {path}, which exists; `--force` overwrites it")
        taken[path.resolve()] = f"that of `{option}` as well"


def print_result(result: Mapping[str, Any], text: str, *, as_json: bool, failed: bool = False) -> None:
    """Print the result of a command.

    Args:
        result: The result for programs.
        text: The result for people.
        as_json: Whether to print it for programs, as JSON.
        failed: Whether the command found a fault.

    Raises:
        typer.Exit: With status 1, if it did.
    """
    typer.echo(json.dumps(_null_if_not_finite(result), indent=2, allow_nan=False) if as_json else text)
    if failed:
        raise typer.Exit(1)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show warnings that an edit fell short of its goal, or cost accuracy, as lines on standard error, each time."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, _OURS):
                typer.echo(f"fastforget: {in_command_words(str(message))}", err=True)
            else:
                usual(message, category, *place, **more)

        warnings.showwarning = show
        for category in _OURS:
            warnings.simplefilter("always", category)
        yield


def _null_if_not_finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not know, by null."""
    if isinstance(value, Mapping):
        return {key: _null_if_not_finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_null_if_not_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
