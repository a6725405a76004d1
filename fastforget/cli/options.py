"""Options that several commands have, with the same name and meaning in each."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "FILES",
    "MODEL",
    "BatchSize",
    "Checkpoint",
    "Classes",
    "Codes",
    "Force",
    "Forgotten",
    "InPlace",
    "Json",
    "Model",
    "Output",
    "destination",
]

MODEL, FILES = "Model", "Files written"  # headings of --help


def _check_factory(value: str) -> str:
    module, colon, function = value.partition(":")
    if not (module and colon and function):
        raise typer.BadParameter(f"must be package.module:function, got {value!r}")
    return value


Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODULE:FUNCTION",
        callback=_check_factory,
        help="A function without arguments that makes the module; files in this folder are found.",
        rich_help_panel=MODEL,
    ),
]
Checkpoint = Annotated[
    Path,
    typer.Option("--checkpoint", metavar="FILE", help="Its weights and buffers, safetensors.", rich_help_panel=MODEL),
]
Codes = Annotated[
    Path,
    typer.Option("--codes", metavar="FILE", help="The mnemonic codes that it was trained with.", rich_help_panel=MODEL),
]
Classes = Annotated[list[int], typer.Option("--cls", metavar="CLASS", min=0, help="A class; again for more.")]
Forgotten = Annotated[
    list[int] | None,
    typer.Option("--forgotten", metavar="CLASS", min=0, help="A class of an earlier request; again for more."),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Codes that are run at once, for less memory; all without it.")
]
Output = Annotated[
    Path | None,
    typer.Option("--output", metavar="FILE", help="Where to write the new checkpoint.", rich_help_panel=FILES),
]
InPlace = Annotated[
    bool,
    typer.Option("--in-place", help="Replace the checkpoint instead, in one step.", rich_help_panel=FILES),
]
Force = Annotated[
    bool, typer.Option("--force", help="Overwrite files that exist, but none that is read.", rich_help_panel=FILES)
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]


def destination(checkpoint: Path, output: Path | None, *, in_place: bool) -> Path:
    """Return where the new checkpoint goes.

    Args:
        checkpoint: The one that is read.
        output: What `--output` says.
        in_place: What `--in-place` says.

    Raises:
        typer.BadParameter: Neither or both are given.
    """
    if (output is None) != in_place:
        raise typer.BadParameter("either `--output` or `--in-place` must be given")
    return checkpoint if output is None else output
