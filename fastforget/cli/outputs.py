"""What a command leaves behind: whole files, and text or JSON on standard output."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from fastforget.serving.log import sync

__all__ = ["check_outputs", "show", "table", "written_whole"]


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path | None], *, force: bool) -> None:
    """Check before any work that files can be written, and that none is lost by it.

    Args:
        outputs: What is to be written, by option; None for nothing.
        inputs: What is read; None for nothing.
        force: Whether other files may be overwritten.

    Raises:
        FileExistsError: A file is there already.
        FileNotFoundError: There is no such folder.
        IsADirectoryError: A folder is in the place of a file.
        ValueError: A file is one of the inputs, or another output.
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


@contextmanager
def written_whole(*paths: Path) -> Iterator[list[Path]]:
    """Write files that appear whole, and only if all of them were written.

    Args:
        *paths: The files, in the order in which they shall appear; links are followed.

    Yields:
        Where to write them.
    """
    targets = [path.resolve() for path in paths]
    drafts = [target.with_name(f".{target.name}.{secrets.token_hex(4)}") for target in targets]
    try:
        yield drafts
        for draft in drafts:
            sync(draft)  # or a name could be on the disk before what it stands for
        for draft, target in zip(drafts, targets, strict=True):
            draft.replace(target)
        for folder in {target.parent for target in targets}:
            sync(folder)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)


def show(result: Mapping[str, Any], text: str, *, as_json: bool, failed: bool = False) -> None:
    """Print the result of a command.

    Args:
        result: For programs.
        text: For people.
        as_json: Which of the two.
        failed: Whether it is that a check failed.

    Raises:
        typer.Exit: With status 1, if so.
    """
    typer.echo(json.dumps(_finite(result), indent=2, allow_nan=False) if as_json else text)
    if failed:
        raise typer.Exit(1)


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not know, by null."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows of cells, the first of them the head; all columns but the first are of numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join((name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))))
        for name, *cells in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
