"""What the classes are called, for the lines that people read: from a file, or as the model has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from fastforget.classifier.class_names import class_names

__all__ = ["known_names", "names_in"]


def names_in(path: Path) -> list[str]:
    """Read names of classes, a line each.

    Args:
        path: The file, UTF-8.

    Returns:
        The names of classes 0, 1, ... in order.

    Raises:
        OSError: There is no such file.
        ValueError: It holds no names, an empty line between them, or no text.
    """
    try:
        names = [line.strip() for line in path.read_text("utf-8").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"`--names` must be a text file in UTF-8, got {path}: {error}") from error
    if not names:
        raise ValueError(f"`--names` must have the name of a class in each line, got nothing in {path}")
    if "" in names:
        raise ValueError(
            f"`--names` must have the name of a class in each line, got an empty line {names.index('') + 1} in {path}"
        )
    return names


def known_names(path: Path | None, model: nn.Module, classes: Sequence[int] = ()) -> Sequence[str] | None:
    """Return what the classes are called.

    Args:
        path: The value of ``--names``.
        model: The model, whose ``config.id2label`` counts where there is no file.
        classes: Those that will be named.

    Returns:
        The names of classes 0, 1, ... in order; None where nothing says them.

    Raises:
        OSError: There is no such file.
        ValueError: It cannot be read, or has no name of one of the classes.
    """
    if path is None:
        return class_names(model)
    names = names_in(path)
    missing = [cls for cls in classes if cls >= len(names)]
    if missing:
        raise ValueError(
            f"`--names` must have the name of class {missing[0]}, got {len(names)} lines in {path}; the first line is "
            "for class 0"
        )
    return names
